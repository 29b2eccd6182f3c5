"""Characters, mouths, voices and scenes: deterministic, varied, and with the mouth on the sound."""

import numpy as np
import pytest

from src.media.rates import SAMPLES_PER_FRAME, SPEECH_RATE
from training.characters import MOUTH_INSIDE, draw_character
from training.mouths import opening_track, shape_track
from training.scenes import SMALL, Scene, draw_scene, face_boxes, render
from training.voices import disturb, draw_voice, espeak, synthesize

HUM = np.sin(2 * np.pi * 200 * np.arange(SPEECH_RATE) / SPEECH_RATE).astype(np.float32)


def scene_of(seed: int, persons: int = 2, size: str = "wide", split: str = "train") -> Scene:
    """A scene from a seed."""
    return draw_scene(np.random.default_rng(seed), persons, SMALL[size], 33, split)


def test_the_same_seed_draws_the_same_clip() -> None:
    tracks = [np.linspace(0, 1, 5)] * 2
    first, second = (render(scene_of(3), tracks, tracks) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (render(scene_of(4), tracks, tracks) != first).any()


def test_held_out_people_have_other_shapes_than_those_trained_on() -> None:
    rng = np.random.default_rng(0)
    trained, held_out = ([draw_character(rng, split) for _ in range(200)] for split in ("train", "held-out"))
    widths = [person.width for person in trained]
    assert not any(0.80 < width < 0.86 for width in widths)
    assert all(0.80 <= person.width <= 0.86 for person in held_out)
    assert not {person.shirt for person in trained} & {person.shirt for person in held_out}


@pytest.mark.parametrize("size", SMALL)
def test_an_open_mouth_is_the_only_dark_red_inside_a_face_box(size: str) -> None:
    scene = scene_of(1, size=size)
    shut, open_ = (render(scene, [np.array([opening])] * 2, [np.zeros(1)] * 2)[0] for opening in (0.0, 1.0))
    for box in face_boxes(scene):
        inside = (slice(box.top, box.bottom), slice(box.left, box.right))
        near = [(np.abs(frame[inside].astype(int) - MOUTH_INSIDE).sum(-1) < 12).sum() for frame in (shut, open_)]
        assert near[0] == 0
        assert near[1] > 20


def test_words_in_the_prompt_are_in_the_picture() -> None:
    closed = next(scene for scene in map(scene_of, range(100)) if scene.eyes_closed and not scene.brows_raised)
    assert "eyes closed" in closed.prompt
    still = [np.zeros(12)] * 2
    frames = render(closed, still, still)
    eyes = face_boxes(closed)[0]
    region = frames[:, eyes.top : (eyes.top + eyes.bottom) // 2, eyes.left : eyes.right]
    white = (region.min(-1) > 235).sum((1, 2))
    assert white[0] > white[8] == 0


def test_mouths_open_with_the_voice_and_rest_in_silence() -> None:
    silence = np.zeros_like(HUM)
    track = opening_track(np.concatenate((silence, HUM, 0.3 * HUM, silence)))
    assert len(track) == 4 * SPEECH_RATE // SAMPLES_PER_FRAME
    quiet, loud, soft, end = (part[3:-3].mean() for part in np.split(track, 4))
    assert quiet == end == 0
    assert loud == pytest.approx(1, abs=0.02)
    assert 0.1 < soft < 0.6
    assert not opening_track(silence).any()


def test_bright_voices_spread_the_mouth() -> None:
    bright = np.sin(2 * np.pi * 2500 * np.arange(SPEECH_RATE) / SPEECH_RATE).astype(np.float32)
    assert shape_track(bright).mean() > 0.9
    assert shape_track(HUM).mean() < -0.9


def test_synthetic_voices_are_seeded_and_vary() -> None:
    first, again, other = (synthesize(np.random.default_rng(seed), 2.0, "train") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 2 * SPEECH_RATE
    assert np.corrcoef(first, other)[0, 1] < 0.5
    assert opening_track(first).std() > 0.2


def test_noise_and_music_stay_below_the_voice() -> None:
    clean = synthesize(np.random.default_rng(0), 2.0, "train")
    mixes = [disturb(np.random.default_rng(seed), clean) for seed in range(8)]
    assert all(np.corrcoef(clean, mixed)[0, 1] > 0.9 for mixed in mixes)
    assert any(np.abs(mixed - clean).max() > 1e-3 for mixed in mixes)


def test_without_espeak_voices_are_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert len(draw_voice(np.random.default_rng(0), 1.0, "train").mixed) == SPEECH_RATE
    with pytest.raises(FileNotFoundError, match="espeak-ng"):
        espeak(np.random.default_rng(0), 1.0, "train")
