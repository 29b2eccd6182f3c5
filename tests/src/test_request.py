"""What a request brings, before any network runs."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from src.errors import InputError
from src.request import MediaLimits, RawInputs, load_inputs


def voice(path: Path, seconds: float, rate: int = 8000, channels: int = 1) -> Path:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, noise, rate, format="FLAC")
    return path


@pytest.fixture
def uploads(tmp_path: Path) -> RawInputs:
    Image.new("RGB", (256, 128), "red").save(tmp_path / "picture.png")
    return RawInputs(
        image=tmp_path / "picture.png",
        first_audio=voice(tmp_path / "first.flac", 4.6),
        second_audio=None,
        num_frames=None,
        person_boxes=None,
        audio_mode="add",
        audio_start=0.0,
        audio_duration=None,
    )


def test_the_longest_allowed_sound_is_allowed(uploads: RawInputs) -> None:
    material = load_inputs(uploads, MediaLimits(max_seconds=4.6))
    assert material.num_frames == 115
    assert material.timeline.soundtrack.seconds == pytest.approx(4.6)


def test_two_voices_together_may_be_too_long(uploads: RawInputs) -> None:
    both = replace(uploads, second_audio=uploads.first_audio)
    with pytest.raises(InputError, match=r"first_audio \(4\.60 s\) and second.*9\.20 s; at most 125 frames \(5 s"):
        load_inputs(both, MediaLimits(max_seconds=5.0))
    assert load_inputs(replace(both, audio_mode="para"), MediaLimits(max_seconds=5.0)).num_frames == 115


def test_a_silent_second_person_needs_no_file(uploads: RawInputs) -> None:
    boxed = replace(uploads, person_boxes="0,0,0.4,1; 0.6,0,1,1")
    material = load_inputs(boxed, MediaLimits(max_seconds=60.0))
    assert material.person_masks is not None
    first_N, second_N = material.timeline.waveforms
    assert len(first_N) == len(second_N)
    assert first_N.any()
    assert not second_N.any()


@pytest.mark.parametrize("frames", [1, 7, 115, 200])
def test_the_length_asked_for_is_the_soundtracks(uploads: RawInputs, frames: int) -> None:
    material = load_inputs(replace(uploads, num_frames=frames), MediaLimits(max_seconds=60.0))
    assert material.num_frames == frames
    assert material.timeline.soundtrack.seconds == pytest.approx(frames / 25)
    assert all(len(track_N) >= frames * 640 for track_N in material.timeline.waveforms)


def test_too_much_is_refused_soon_at_the_default_limit(uploads: RawInputs, tmp_path: Path) -> None:
    long = voice(tmp_path / "long.flac", 400, rate=44_100, channels=2)
    both = replace(uploads, first_audio=long, second_audio=long)
    started = time.process_time()
    with pytest.raises(InputError, match=r"800\.00 s; at most 15,000 frames"):
        load_inputs(both, MediaLimits(max_seconds=600.0))
    # The promise is 2 s of an idle machine's time; the processor's own time does not depend on who else is busy.
    assert time.process_time() - started < 2.5
