"""The reader of faces, on the renderer's own frames."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.quality.clips import ROWS, draw_clip, plain
from benchmarks.quality.face_reader import Video, brow_darkness, eye_whiteness, mouth_free, mouth_opening
from benchmarks.quality.metrics import read
from benchmarks.quality.sync_metrics import Reading, correlation, own_correlation
from training.scenes import face_boxes, render
from wan.conditioning.speakers import BoxRegion

ON_AVERAGE, EACH, BLURRED = 0.98, 0.95, 0.97
SHORT = [row for row in ROWS if row.chunks == 1 and row.sound != "none"]


def blurred(video: Video) -> Video:
    """As a small VAE might give it back: soft in space and a little in time, paler, with some noise."""
    soft = gaussian_filter(video.astype(np.float64), (0.4, 0.8, 0.8, 0)) * 0.93 + 8
    noise = np.random.default_rng(0).normal(0, 3, video.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


def readings(spoil: Callable[[Video], Video] = lambda video: video) -> list[Reading]:
    """Every face of two clips of every row of one chunk."""
    found = []
    for row in SHORT:
        for index in range(2):
            clip = draw_clip(row, 1, index)
            found += read(clip, spoil(clip.truth()))
    return found


def test_the_mouth_is_read_from_what_was_drawn() -> None:
    found = readings()
    moving = [correlation(r.read, r.own) for r in found if r.own.std() > 0.05]
    assert len(moving) > 30
    assert np.mean(moving) >= ON_AVERAGE
    assert min(moving) >= EACH
    assert own_correlation(found) >= ON_AVERAGE  # pooled: faces are read alike, too
    assert max(np.abs(r.read[r.own == 0]).max(initial=0) for r in found) < 0.05


def test_blur_noise_and_drift_do_not_matter() -> None:
    found = readings(blurred)
    assert own_correlation(found) >= BLURRED
    assert min(correlation(r.read, r.own) for r in found if r.own.std() > 0.1) >= 0.93


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (-1, -1)])
def test_a_pixel_more_or_less_does_not_matter(shift: tuple[int, int]) -> None:
    clip = draw_clip(SHORT[0], 2, 0)
    (box,) = face_boxes(clip.scene)
    down, right = shift
    moved = BoxRegion(top=box.top + down, left=box.left + right, bottom=box.bottom + down, right=box.right + right)
    video = clip.truth()
    assert correlation(mouth_opening(video, moved)[1:], clip.openings[0][1:]) > ON_AVERAGE


def test_eyes_and_brows_are_read() -> None:
    clip = draw_clip(SHORT[0], 3, 0)
    seen = {
        name: plain(clip, name, eyes_closed=name == "closed", brows_raised=name == "raised").truth()
        for name in ("neutral", "closed", "raised")
    }
    (box,) = face_boxes(clip.scene)
    late = slice(10, None)
    assert np.median(eye_whiteness(seen["neutral"], box)[late]) > 0.15
    assert np.median(eye_whiteness(seen["closed"], box)[late]) < 0.02
    assert np.median(brow_darkness(seen["neutral"], box)[late]) > 0.1
    assert np.median(brow_darkness(seen["raised"], box)[late]) < 0.05


def test_mouths_are_left_out_of_the_rest() -> None:
    clip = draw_clip(next(row for row in SHORT if row.persons == 2), 4, 0)
    open_wide, closed = [np.ones(1)] * 2, [np.zeros(1)] * 2
    frames = [render(clip.scene, openings, closed)[0].astype(int) for openings in (open_wide, closed)]
    changed = np.abs(frames[0] - frames[1]).max(-1) > 0
    assert changed.any()
    assert not (changed & mouth_free(face_boxes(clip.scene), *clip.scene.size)).any()
