"""Placement, mixing and padding of voices.

N samples, C channels.
"""

import numpy as np
import pytest

from src.audio_analysis.loudness import normalize
from src.audio_analysis.speech_waveform import SILENT_PEAK
from src.audio_analysis.timeline import Mode, count_frames, mix
from src.errors import InputError
from src.media.audio.audio import Audio
from src.media.audio.convert import to_mono


def voice(seconds: float, rate: int = 48000, channels: int = 1, seed: int = 0, level: float = 0.1) -> Audio:
    noise_CN = np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))
    return Audio(samples_CN=(level * noise_CN).clip(-1, 1).astype(np.float32), sample_rate=rate)


def speech(audio: Audio) -> np.ndarray:
    """The waveform that the speech encoder receives for a voice."""
    return normalize(to_mono(audio, 16000), 16000).astype(np.float32)


@pytest.mark.parametrize("mode", ["add", "para"])
def test_one_voice_is_the_soundtrack(mode: Mode) -> None:
    alone = voice(1.5, rate=44100, channels=2)
    timeline = mix([alone], mode)
    assert timeline.soundtrack is alone
    assert len(timeline.waveforms) == 1
    np.testing.assert_array_equal(timeline.waveforms[0], speech(alone))
    assert timeline.waveforms[0].dtype == np.float32


def test_add_places_voices_one_after_the_other() -> None:
    first, second = voice(1.0), voice(1.5, seed=1)
    timeline = mix([first, second], "add")
    np.testing.assert_array_equal(timeline.waveforms[0], np.concatenate([speech(first), np.zeros(24000)]))
    np.testing.assert_array_equal(timeline.waveforms[1], np.concatenate([np.zeros(16000), speech(second)]))
    both_CN = np.concatenate([first.samples_CN, second.samples_CN], axis=1)
    np.testing.assert_array_equal(timeline.soundtrack.samples_CN, both_CN)
    assert count_frames([first, second], "add") == 62  # 62.5, rounded to even


@pytest.mark.parametrize("lengths", [(1.0, 1.5), (1.5, 1.0), (1.2, 1.2)])
def test_para_pads_the_shorter_voice(lengths: tuple[float, float]) -> None:
    voices = [voice(seconds, seed=seed) for seed, seconds in enumerate(lengths)]
    timeline = mix(voices, "para")
    longest = round(max(lengths) * 16000)
    for person, audio in enumerate(voices):
        speech_N = speech(audio)
        np.testing.assert_array_equal(timeline.waveforms[person], np.pad(speech_N, (0, longest - len(speech_N))))
    shorter, longer = sorted((audio.samples_CN for audio in voices), key=lambda samples_CN: samples_CN.shape[1])
    sum_CN = longer.copy()
    sum_CN[:, : shorter.shape[1]] += shorter
    np.testing.assert_allclose(timeline.soundtrack.samples_CN, sum_CN, atol=1e-7)


@pytest.mark.parametrize("mode", ["add", "para"])
def test_soundtrack_has_the_higher_sample_rate_and_channel_count(mode: Mode) -> None:
    low, high = voice(1.0, rate=8000), voice(0.5, rate=44100, channels=2, seed=1)
    for voices in ([low, high], [high, low]):
        mixed = mix(voices, mode).soundtrack
        assert (mixed.sample_rate, mixed.num_channels) == (44100, 2)
        assert mixed.seconds == pytest.approx(1.5 if mode == "add" else 1.0, abs=1e-4)
        assert mixed.samples_CN.dtype == np.float32


def test_mono_voice_is_copied_to_both_channels() -> None:
    mixed = mix([voice(0.5), voice(0.5, channels=2, seed=1)], "add").soundtrack
    half = mixed.samples_CN[:, :24000]
    assert half.any()
    np.testing.assert_array_equal(half[0], half[1])


def test_sum_beyond_full_scale_is_scaled_down() -> None:
    loud = voice(1.0, level=0.5)
    mixed_CN = mix([loud, loud], "para").soundtrack.samples_CN
    assert np.abs(mixed_CN).max() == pytest.approx(1.0)
    np.testing.assert_allclose(mixed_CN, loud.samples_CN / np.abs(loud.samples_CN).max(), atol=1e-6)


def test_loudness_is_normalized_before_padding() -> None:
    """A short answer is as loud as a long talk."""
    talk, answer = voice(3.0, level=0.3), voice(0.5, level=0.01, seed=1)
    first_N, second_N = mix([talk, answer], "para").waveforms
    levels = [np.sqrt(np.mean(first_N**2)), np.sqrt(np.mean(second_N[:8000] ** 2))]
    assert levels[0] == pytest.approx(levels[1], rel=0.1)


@pytest.mark.parametrize("silence", [voice(1.0, level=0), voice(0), voice(1.0, level=SILENT_PEAK / 10)])
@pytest.mark.parametrize("first", [True, False])
def test_silent_voice_beside_an_audible_one(silence: Audio, first: bool) -> None:
    speaker = voice(2.0)
    voices = [silence, speaker] if first else [speaker, silence]
    timeline = mix(voices, "para")
    assert [len(waveform_N) for waveform_N in timeline.waveforms] == [32000, 32000]
    assert np.abs(timeline.waveforms[0 if first else 1]).max() < 1e-3
    assert timeline.soundtrack.seconds == 2.0


@pytest.mark.parametrize(
    ("voices", "names"),
    [
        ([voice(1.0, level=0)], "first_audio: "),
        ([voice(0)], "first_audio: "),
        ([Audio(samples_CN=np.full((1, 16000), 0.1, np.float32), sample_rate=16000)], "first_audio: "),
        ([voice(1.0, level=0), voice(2.0, level=0)], "first_audio and second_audio: "),
        ([voice(1.0, level=SILENT_PEAK / 10), voice(0)], "first_audio and second_audio: "),
    ],
)
def test_silent_voices_are_refused(voices: list[Audio], names: str) -> None:
    with pytest.raises(InputError, match=f"^{names}the audio is silent.*at least 0.0001"):
        mix(voices, "para")


@pytest.mark.parametrize("mode", ["together", "", "ADD"])
def test_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(InputError, match=f"audio_mode is '{mode}'; it must be one of add, para"):
        mix([voice(1.0)], mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 3])
def test_other_numbers_of_voices_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} voices are given; the model supports one or two"):
        mix([voice(1.0)] * count, "add")


@pytest.mark.parametrize(
    ("samples", "rate", "frames"),
    [(16000, 16000, 25), (8000, 16000, 12), (44100, 44100, 25), (641, 16000, 1), (1, 16000, 1), (471_000, 44100, 267)],
)
def test_count_frames_rounds_seconds_times_25(samples: int, rate: int, frames: int) -> None:
    audio = Audio(samples_CN=np.full((1, samples), 0.1, np.float32), sample_rate=rate)
    assert count_frames([audio], "add") == frames
    assert frames == max(1, round(25 * samples / rate))


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize("frames", [1, 10, 24, 25, 26, 81, 200])
def test_num_frames_cuts_or_pads(rate: int, frames: int) -> None:
    voices = [voice(1.0, rate=rate, channels=2), voice(0.7, rate=rate, seed=1)]
    timeline, fitted = mix(voices, "para"), mix(voices, "para", num_frames=frames)
    samples = round(frames * rate / 25)
    assert fitted.soundtrack.samples_CN.shape == (2, samples)
    kept = min(samples, rate)
    np.testing.assert_array_equal(fitted.soundtrack.samples_CN[:, :kept], timeline.soundtrack.samples_CN[:, :kept])
    assert not fitted.soundtrack.samples_CN[:, kept:].any()
    for before_N, after_N in zip(timeline.waveforms, fitted.waveforms, strict=True):
        assert len(after_N) == max(len(before_N), 640 * frames)
        np.testing.assert_array_equal(after_N[: len(before_N)], before_N)
        assert not after_N[len(before_N) :].any()


def test_too_large_mix_is_refused() -> None:
    long = Audio(samples_CN=np.tile(np.array([[0.1, -0.1]], np.float32), 4000 * 600), sample_rate=8000)
    fine = Audio(samples_CN=np.tile(np.array([[0.1, -0.1]], np.float32), (8, 96_000)), sample_rate=192_000)
    with pytest.raises(InputError, match=r"192,000 Hz in 8 channels.*at most 268,435,456"):
        mix((long, fine), "add")
