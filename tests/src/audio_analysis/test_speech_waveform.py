"""The waveform that moves the lips: the same from a bad recording as from a good one, and unchanged from a good one.

C channels, N samples at 16 kHz.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.audio_analysis.loudness import measure
from src.audio_analysis.speech_waveform import SILENT_PEAK, speech_waveform
from src.audio_analysis.timeline import mix
from src.media.audio.audio import Audio
from src.media.audio.convert import to_mono
from src.media.audio.read import read_audio
from src.serving.request_warnings import collect_warnings
from training.mouths import opening_curve

RATE = 16_000
Distort = Callable[[np.ndarray], np.ndarray]


def load(name: str) -> np.ndarray:
    """(N,) of a voice of the examples, at a level of -26 dB."""
    voice_N = to_mono(read_audio(Path("examples") / name, name=name, max_seconds=60), RATE)
    voice_N = voice_N[: len(voice_N) // 640 * 640]
    return voice_N * np.float32(0.05 / voice_N.std())


VOICES = {name: load(f"voice_{name}.flac") for name in ("anna", "ben")}


def derive(samples_CN: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, list[str]]:
    """The waveform of the only voice, and the warnings."""
    with collect_warnings() as warnings:
        audio = Audio(samples_CN=np.atleast_2d(samples_CN).astype(np.float32), sample_rate=rate)
        return mix([audio], "add").waveforms[0], warnings


def noise(count: int, level: float = 0.05, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(count)


def sine(count: int, frequency: float, level: float = 0.05) -> np.ndarray:
    return np.sqrt(2) * level * np.sin(2 * np.pi * frequency * np.arange(count) / RATE)


def hum(voice_N: np.ndarray, mains: float, level: float) -> np.ndarray:
    return voice_N + sum(sine(len(voice_N), mains * n, level / n) for n in range(1, 6))


def delayed(voice_N: np.ndarray, seconds: float) -> np.ndarray:
    return np.pad(voice_N, (round(seconds * RATE), 0))[: len(voice_N)]


def replaced(voice_N: np.ndarray, what_N: np.ndarray, start: int = 20_000) -> np.ndarray:
    result_N = voice_N.copy()
    result_N[start : start + len(what_N)] = what_N
    return result_N


def clicked(voice_N: np.ndarray) -> np.ndarray:
    for start in np.random.default_rng(0).integers(0, len(voice_N) - 50, size=8):
        voice_N = replaced(voice_N, np.full(16, 0.99), start)
    return voice_N


CHANNELS: dict[str, tuple[Distort, str]] = {
    "opposite phase": (lambda x: np.stack([x, -x]), "opposite phase in channel 2"),
    "nearly opposite": (lambda x: np.stack([x + noise(len(x), 1e-3), -0.8 * x]), "opposite phase in channel 2"),
    "5.1, two inverted": (
        lambda x: np.stack([x, -x, 0.7 * x, 0 * x, -0.5 * x, 0.5 * x]),
        "opposite phase in channels 2, 5",
    ),
    "late copy": (lambda x: np.stack([x, delayed(x, 0.06)]), "a later copy in channel 2"),
    "early copy": (lambda x: np.stack([0.8 * delayed(x, 0.25), x]), "a later copy in channel 1"),
    "noise": (lambda x: np.stack([noise(len(x), 0.2), x]), "only noise in channel 1"),
    "hum": (lambda x: np.stack([x, 4 * hum(0 * x, 50, 0.05)]), "only noise in channel 2"),
    "offset": (lambda x: np.stack([x + 0.1, x - 0.1]), ""),
    "silence": (lambda x: np.stack([x, 0 * x]), ""),
    "mono as stereo": (lambda x: np.stack([x, x]), ""),
}


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("voice_N", VOICES.values(), ids=VOICES)
def test_voice_of_any_channels(voice_N: np.ndarray, kind: str) -> None:
    distort, words = CHANNELS[kind]
    waveform_N, warnings = derive(distort(voice_N))
    expected_N, none = derive(voice_N)
    assert none == []
    np.testing.assert_allclose(waveform_N, expected_N, atol=0.02 * np.abs(expected_N).max())
    if words:
        assert warnings == [f"first_audio was repaired for the lips, not for what is heard: {words}"]
    else:
        assert warnings == []


def test_two_people_on_two_channels_are_both_heard() -> None:
    anna_N, ben_N = VOICES.values()
    waveform_N, warnings = derive(np.stack([np.append(anna_N, 0 * ben_N), np.append(0 * anna_N, ben_N)]))
    assert warnings == []
    assert waveform_N[: len(anna_N)].std() == pytest.approx(waveform_N[len(anna_N) :].std(), rel=0.1)


OFFSET = "an offset or rumble below 20 Hz is removed"
# How a voice is recorded, the warning, and the smallest correlation with the openings that the clean voice makes.
RECORDINGS: dict[str, tuple[Distort, str, float]] = {
    "offset": (lambda x: x + 0.1, OFFSET, 0.999),
    "small offset": (lambda x: x - 0.005, OFFSET, 0.999),
    "drifting offset": (lambda x: x + sine(len(x), 0.3, 0.1), OFFSET, 0.999),
    "rumble": (lambda x: x + sine(len(x), 9, 0.1), OFFSET, 0.995),
    "click": (lambda x: replaced(x, np.full(72, 0.99)), "louder than the speech are lowered", 0.9),
    "click of a very quiet voice": (lambda x: replaced(0.02 * x, np.full(72, 0.99)), "are lowered", 0.85),
    "clicks": (clicked, "louder than the speech are lowered", 0.85),
    "slam": (lambda x: replaced(0.2 * x, noise(4000, 0.4)), "louder than the speech are lowered", 0.8),
    "hum of 50 Hz": (lambda x: hum(x, 50, 0.05), "hum of 50 Hz is removed", 0.95),
    "hum of 60 Hz": (lambda x: hum(x, 60, 0.1), "hum of 60 Hz is removed", 0.9),
    "very quiet": (lambda x: 0.002 * x, "is raised", 0.999),
    "quiet with an offset": (lambda x: 0.01 * x + 0.1, OFFSET, 0.99),
}


@pytest.mark.parametrize("kind", RECORDINGS)
@pytest.mark.parametrize("voice_N", VOICES.values(), ids=VOICES)
def test_bad_recording_moves_the_lips_like_a_good_one(voice_N: np.ndarray, kind: str) -> None:
    distort, words, correlation = RECORDINGS[kind]
    waveform_N, warnings = derive(distort(voice_N))
    expected_N, _ = derive(voice_N)
    assert [words in warning for warning in warnings] == [True]
    assert abs(float(waveform_N.mean())) < 2e-3
    assert np.corrcoef(opening_curve(waveform_N), opening_curve(expected_N))[0, 1] > correlation
    assert opening_curve(waveform_N).mean() == pytest.approx(opening_curve(expected_N).mean(), abs=0.12)
    assert measure(waveform_N, RATE) == pytest.approx(-23, abs=0.1)
    assert np.median(np.abs(waveform_N)) == pytest.approx(np.median(np.abs(expected_N)), rel=0.4)


@pytest.mark.parametrize("level", [0.05, 0.005, 0.0005])
@pytest.mark.parametrize("make", [noise, lambda count, level: sine(count, 440, level)])
def test_noise_without_speech_gets_a_warning(make: Callable[[int, float], np.ndarray], level: float) -> None:
    _, warnings = derive(make(3 * RATE, level))
    assert ["cannot be told from its noise" in warning for warning in warnings] == [True]


@pytest.mark.parametrize(("decibels", "is_warned"), [(20, False), (10, False), (-3, True), (-10, True)])
@pytest.mark.parametrize("voice_N", VOICES.values(), ids=VOICES)
def test_speech_in_noise_gets_a_warning_when_it_does_not_stand_out(
    voice_N: np.ndarray, decibels: float, is_warned: bool
) -> None:
    _, warnings = derive(voice_N + noise(len(voice_N), 0.05 * 10 ** (-decibels / 20)))
    assert any("cannot be told from its noise" in warning for warning in warnings) == is_warned


def test_clipped_recording_gets_a_warning() -> None:
    _, warnings = derive(np.clip(40 * VOICES["anna"], -0.5, 0.5))
    assert "first_audio is clipped" in warnings[0]


def test_listener_with_a_quiet_microphone_is_not_amplified() -> None:
    """An offset and the noise of a microphone are no voice; steady noise is not raised above what it is."""
    speaker = Audio(samples_CN=VOICES["anna"][None], sample_rate=RATE)
    listener_N = (0.05 + noise(len(VOICES["anna"]), 5e-5)).astype(np.float32)
    with collect_warnings() as warnings:
        waveforms = mix([speaker, Audio(samples_CN=listener_N[None], sample_rate=RATE)], "para").waveforms
    assert np.abs(waveforms[1]).max() < 10 * SILENT_PEAK
    assert all(warning.startswith("second_audio") for warning in warnings)


def test_ordinary_recordings_are_the_mean_of_their_channels() -> None:
    for name in ("voice_anna.flac", "voice_ben.flac", "anna_with_music.ogg"):
        audio = read_audio(Path("examples") / name, name=name, max_seconds=60)
        with collect_warnings() as warnings:
            np.testing.assert_array_equal(speech_waveform(audio, name=name), to_mono(audio, RATE))
        assert warnings == []


def test_word_in_a_long_silence_of_breath_is_no_accident() -> None:
    """A listener who says one word: the loud moment is the speech."""
    word_N = VOICES["ben"][8000:16000]
    breath_N = noise(20 * RATE, 5e-4) * (1.2 + np.sin(2 * np.pi * 0.3 * np.arange(20 * RATE) / RATE))
    waveform_N, warnings = derive(replaced(breath_N, word_N, start=80_000))
    assert not any("lowered" in warning for warning in warnings)
    assert np.corrcoef(waveform_N[80_000:88_000], word_N)[0, 1] > 0.999


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_short_recordings(seconds: float, rate: int) -> None:
    waveform_N, _ = derive(np.stack([noise(round(seconds * rate)), -noise(round(seconds * rate))]), rate)
    assert len(waveform_N) == pytest.approx(seconds * RATE, abs=1)
    assert waveform_N.std() > 0.01
