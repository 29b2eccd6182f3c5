"""Face measures on frames drawn by the renderer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.quality.clips import ROWS, draw_clip, with_bare_faces
from benchmarks.quality.conditioning_ablation import MEASURES
from benchmarks.quality.face_reader import Video, brow_darkness, eye_whiteness, mouth_opening, outside_mouths
from benchmarks.quality.metrics import read_mouths
from benchmarks.quality.sync_metrics import MouthReading, correlation, own_correlation
from src.media.persons.boxes import Box
from training.scenes import FULL, SMALL, face_boxes, render, sample_scene, show_only

SHORT = [row for row in ROWS if row.num_chunks == 1 and row.audio != "none"]


def degrade(video: Video) -> Video:
    """Imitate a small VAE: blur in space and time, lower contrast, noise."""
    blurred = gaussian_filter(video.astype(np.float64), (0.4, 0.8, 0.8, 0)) * 0.93 + 8
    noise = np.random.default_rng(0).normal(0, 3, video.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def read_all(transform: Callable[[Video], Video] = lambda video: video) -> list[MouthReading]:
    """Every face of a clip of every row of one chunk."""
    readings = []
    for row in SHORT:
        clip = draw_clip(row, 1, 0)
        readings += read_mouths(clip, transform(clip.ground_truth()))
    return readings


def test_mouth_opening_matches_the_renderer() -> None:
    readings = read_all()
    moving = [correlation(each.measured, each.own) for each in readings if each.own.std() > 0.05]
    assert len(moving) > 15
    assert np.mean(moving) >= 0.98
    assert min(moving) >= 0.95
    assert own_correlation(readings) >= 0.98
    assert max(np.abs(each.measured[each.own == 0]).max(initial=0) for each in readings) < 0.05


@pytest.mark.parametrize("size", [*FULL.values(), SMALL["wide"]])
def test_mouth_opening_matches_shaded_drawings(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 2, size, 24, "held-out", "shaded")
    curves = [np.clip(np.convolve(rng.standard_normal(26), np.ones(3) / 2, mode="valid") + 0.2, 0, 1) for _ in range(2)]
    video = render(scene, curves, [rng.uniform(-1, 1, 24) for _ in range(2)])
    for box, curve in zip(face_boxes(scene), curves, strict=True):
        assert correlation(mouth_opening(video, box), curve) >= 0.98
        assert mouth_opening(video, box)[curve == 0].max(initial=0) < 0.05


def test_mouth_opening_is_robust_to_blur_noise_and_low_contrast() -> None:
    readings = read_all(degrade)
    assert own_correlation(readings) >= 0.97
    assert min(correlation(each.measured, each.own) for each in readings if each.own.std() > 0.1) >= 0.93


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (-1, -1)])
def test_mouth_opening_is_robust_to_shifted_boxes(shift: tuple[int, int]) -> None:
    clip = draw_clip(SHORT[0], 2, 0)
    (box,) = face_boxes(clip.scene)
    down, right = shift
    moved = Box(top=box.top + down, left=box.left + right, bottom=box.bottom + down, right=box.right + right)
    video = clip.ground_truth()
    assert correlation(mouth_opening(video, moved)[1:], clip.openings[0][1:]) > 0.98


def test_eyes_and_brows() -> None:
    clip = draw_clip(SHORT[0], 3, 0)
    videos = {
        name: with_bare_faces(clip, name, phrase).ground_truth()
        for name, phrase in (("neutral", ""), ("closed", "eyes closed"), ("raised", "eyebrows raised"))
    }
    (box,) = face_boxes(clip.scene)
    late = slice(10, None)
    assert np.median(eye_whiteness(videos["neutral"], box)[late]) > 0.15
    assert np.median(eye_whiteness(videos["closed"], box)[late]) < 0.02
    assert np.median(brow_darkness(videos["neutral"], box)[late]) > 0.1
    assert np.median(brow_darkness(videos["raised"], box)[late]) < 0.05


@pytest.mark.parametrize(
    ("phrase", "least"),
    [
        ("eyes closed", -0.1),
        ("eyebrows raised", -0.05),
        ("smiling", 0.04),
        ("red background", 0.15),
        ("green background", 0.08),
        ("blue background", 0.15),
        ("at night", -50.0),
    ],
)
def test_words_are_measured_on_shaded_drawings(phrase: str, least: float) -> None:
    scene = sample_scene(np.random.default_rng(1), 1, FULL["wide"], 24, "held-out", "shaded")
    people = tuple(replace(person, hair="none", hat="none", glasses="none") for person in scene.characters)
    videos = [
        render(show_only(replace(scene, characters=people), shown), [np.zeros(14)], [np.zeros(14)])
        for shown in ("", phrase)
    ]
    (box,) = face_boxes(scene)
    neutral, changed = (np.median(MEASURES[phrase](video, box)[10:]) for video in videos)
    assert (changed - neutral) / least >= 1


def test_outside_mouths_excludes_all_mouth_pixels() -> None:
    clip = draw_clip(next(row for row in SHORT if row.persons == 2), 4, 0)
    opened, closed = [np.ones(1)] * 2, [np.zeros(1)] * 2
    frames = [render(clip.scene, openings, closed)[0].astype(int) for openings in (opened, closed)]
    changed = np.abs(frames[0] - frames[1]).max(-1) > 0
    assert changed.any()
    assert not (changed & outside_mouths(face_boxes(clip.scene), *clip.scene.size)).any()
