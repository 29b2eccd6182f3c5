"""Characters, mouth curves, voices and scenes: determinism, variety, and synchrony of mouth and voice."""

from dataclasses import replace

import numpy as np
import pytest

from src.media.rates import SAMPLES_PER_FRAME, SPEECH_RATE
from training.characters import MOUTH_INSIDE, sample_character
from training.editions import EDITIONS, select_edition
from training.gestures import speech_gestures
from training.mouths import opening_curve, shape_curve
from training.prompts import SHADED_PHRASES
from training.scenes import (
    FULL,
    SMALL,
    Drawing,
    Scene,
    face_boxes,
    render,
    render_still,
    sample_scene,
)
from training.voices import add_noise, sample_voice, synthesize_espeak, synthesize_formants

FLAT_CHECKSUM = 18634
"""Sum of some pixels, which the clips of the shipped weights and of the benchmarks had before shading."""
HUM = np.sin(2 * np.pi * 200 * np.arange(SPEECH_RATE) / SPEECH_RATE).astype(np.float32)


def scene_of(seed: int, persons: int = 2, size: str = "wide", split: str = "train", drawing: Drawing = "flat") -> Scene:
    """A scene from a seed."""
    return sample_scene(np.random.default_rng(seed), persons, SMALL[size], 33, split, drawing)


@pytest.mark.parametrize("drawing", ["flat", "shaded"])
def test_rendering_is_deterministic(drawing: Drawing) -> None:
    curves = [np.linspace(0, 1, 5)] * 2
    first, second = (render(scene_of(3, drawing=drawing), curves, curves) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (render(scene_of(4, drawing=drawing), curves, curves) != first).any()


def test_flat_scenes_do_not_change() -> None:
    frame = render_still(scene_of(0))
    assert frame[::16, ::16].sum() == FLAT_CHECKSUM


@pytest.mark.parametrize("phrase", SHADED_PHRASES)
def test_words_change_a_shaded_drawing(phrase: str) -> None:
    matching = (scene for scene in (scene_of(seed, drawing="shaded") for seed in range(300)) if phrase in scene.prompt)
    scene = next(matching)
    still = [np.zeros(12)] * 2
    first, *_, last = render(scene, still, still).astype(int)
    assert np.abs(last - first).max() > 40
    neutral = replace(
        scene, eyes_closed=False, brows_raised=False, smiling=False, background="", night=(scene.night[0],) * 2
    )
    assert np.abs(render(neutral, still, still)[-1].astype(int) - first).mean() < np.abs(last - first).mean()


@pytest.mark.parametrize("word", ["at night", "by day", "blue background"])
def test_words_about_light_and_background(word: str) -> None:
    scene = replace(scene_of(0, drawing="shaded"), background="blue" if "blue" in word else "")
    scene = replace(scene, night={"at night": (0.0, 1.0), "by day": (1.0, 0.0)}.get(word, (0.0, 0.0)))
    still = [np.zeros(12)] * 2
    first, last = (render(scene, still, still)[index, :8].reshape(-1, 3).mean(0) for index in (0, -1))
    if word == "blue background":
        assert last[2] - last[0] > 60
    else:
        assert (last.mean() < 0.6 * first.mean()) == (word == "at night")


def test_heads_move_with_speech_and_listeners_look_at_who_speaks() -> None:
    talk, silence = np.full(20, 0.6), np.zeros(20)
    (speaking, gaze_of_speaker), (listening, gaze_of_listener) = speech_gestures([talk, silence], side=1)[:, 10]
    assert speaking > 0.5 > listening == 0
    assert gaze_of_speaker == 0
    assert gaze_of_listener < -0.9, "the second person is on the right and looks to the left"


def test_editions() -> None:
    assert EDITIONS["second"].sizes == FULL
    with pytest.raises(ValueError, match="PUPPET_EDITION is 'third'; first or second"):
        select_edition("third")


def test_held_out_characters_are_disjoint_from_training() -> None:
    rng = np.random.default_rng(0)
    trained, held_out = ([sample_character(rng, split) for _ in range(200)] for split in ("train", "held-out"))
    widths = [person.width for person in trained]
    assert not any(0.80 < width < 0.86 for width in widths)
    assert all(0.80 <= person.width <= 0.86 for person in held_out)
    assert not {person.shirt for person in trained} & {person.shirt for person in held_out}


@pytest.mark.parametrize("size", SMALL)
def test_only_an_open_mouth_has_its_color_within_a_face_box(size: str) -> None:
    scene = scene_of(1, size=size)
    closed, opened = (render(scene, [np.array([opening])] * 2, [np.zeros(1)] * 2)[0] for opening in (0.0, 1.0))
    for box in face_boxes(scene):
        inside = (slice(box.top, box.bottom), slice(box.left, box.right))
        near = [(np.abs(frame[inside].astype(int) - MOUTH_INSIDE).sum(-1) < 12).sum() for frame in (closed, opened)]
        assert near[0] == 0
        assert near[1] > 20


def test_image_follows_the_prompt() -> None:
    closed = next(scene for scene in map(scene_of, range(100)) if scene.eyes_closed and not scene.brows_raised)
    assert "eyes closed" in closed.prompt
    still = [np.zeros(12)] * 2
    frames = render(closed, still, still)
    eyes = face_boxes(closed)[0]
    region = frames[:, eyes.top : (eyes.top + eyes.bottom) // 2, eyes.left : eyes.right]
    white = (region.min(-1) > 235).sum((1, 2))
    assert white[0] > white[8] == 0


def test_mouth_opens_with_loudness_and_closes_in_silence() -> None:
    silence = np.zeros_like(HUM)
    curve = opening_curve(np.concatenate((silence, HUM, 0.3 * HUM, silence)))
    assert len(curve) == 4 * SPEECH_RATE // SAMPLES_PER_FRAME
    quiet, loud, soft, end = (part[3:-3].mean() for part in np.split(curve, 4))
    assert quiet == end == 0
    assert loud == pytest.approx(1, abs=0.02)
    assert 0.1 < soft < 0.6
    assert not opening_curve(silence).any()


def test_high_frequencies_spread_the_mouth() -> None:
    bright = np.sin(2 * np.pi * 2500 * np.arange(SPEECH_RATE) / SPEECH_RATE).astype(np.float32)
    assert shape_curve(bright).mean() > 0.9
    assert shape_curve(HUM).mean() < -0.9


def test_synthetic_voices_are_deterministic_and_vary() -> None:
    first, again, other = (synthesize_formants(np.random.default_rng(seed), 2.0, "train") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 2 * SPEECH_RATE
    assert np.corrcoef(first, other)[0, 1] < 0.5
    assert opening_curve(first).std() > 0.2


def test_added_noise_is_quieter_than_the_voice() -> None:
    clean = synthesize_formants(np.random.default_rng(0), 2.0, "train")
    mixes = [add_noise(np.random.default_rng(seed), clean) for seed in range(8)]
    assert all(np.corrcoef(clean, mixed)[0, 1] > 0.9 for mixed in mixes)
    assert any(np.abs(mixed - clean).max() > 1e-3 for mixed in mixes)


def test_voices_are_synthetic_without_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert len(sample_voice(np.random.default_rng(0), 1.0, "train").noisy) == SPEECH_RATE
    with pytest.raises(FileNotFoundError, match="espeak-ng"):
        synthesize_espeak(np.random.default_rng(0), 1.0, "train")
