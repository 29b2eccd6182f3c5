"""Levels of a recording: how loud its speech is, whatever else it holds, and whether it stands out.

N samples at 16 kHz, F frames of 40 ms, H hops of 10 ms.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import signal

from src.media.audio.spool import release_pages
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

SEGMENT_SAMPLES = 16 * SPEECH_RATE
HOP = SAMPLES_PER_FRAME // 4
SETTLING_SAMPLES = SPEECH_RATE
# Levels are measured above this frequency.
LEVEL_HZ = 100
# Frames this far below the loudest one are digital silence.
MAX_RANGE_DB = 80.0
# A voiced frame resembles itself after one period of a voice's pitch; noise does not.
PITCH_HZ = (70, 400)
MIN_PERIODICITY = 0.5
MIN_VOICED_FRAMES = 3
# Frames of speech: above the quiet ones by this much, and not this far below the median of speech.
ABOVE_QUIET_DB, BELOW_SPEECH_DB = 10.0, 10.0
# The 95th percentile of frame levels is above the 10th by at least this much where there is speech.
MIN_SPEECH_RANGE_DB = 8.0
SILENT_POWER = 1e-16


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechLevels:
    """In dB: the median frame of speech (None without any sound), the range from quiet frames to loud ones, and the
    peak of every hop (H,). `voiced_seconds` are those of the frames of speech, 0 if hardly any is voiced.
    """

    speech: float | None
    voiced_seconds: float
    range: float
    peak_H: np.ndarray

    @property
    def is_speech(self) -> bool:
        """Whether the loud frames stand out from the quiet ones."""
        return self.range >= MIN_SPEECH_RANGE_DB


def segments(waveform_N: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive parts of a whole number of frames each, but for the last one; pages already read are released."""
    for first in range(0, max(1, len(waveform_N)), SEGMENT_SAMPLES):
        yield waveform_N[first : first + SEGMENT_SAMPLES]
        release_pages(waveform_N)


def measure_levels(waveform_N: np.ndarray) -> SpeechLevels:
    """Levels of a waveform. Speech is its voiced frames, or, if it has hardly any, those above the quiet ones."""
    high_pass = signal.butter(2, LEVEL_HZ, "highpass", fs=SPEECH_RATE, output="sos")
    state = filter_start(high_pass, waveform_N)
    levels, voiced, peaks = [], [], []
    for segment_N in segments(waveform_N):
        high_N, state = signal.sosfilt(high_pass, segment_N, zi=state)
        frames_FN = split(high_N, SAMPLES_PER_FRAME)
        levels.append(_decibels(np.square(frames_FN).mean(axis=1)))
        voiced.append(_periodicity(frames_FN) > MIN_PERIODICITY)
        peaks.append(20 * np.log10(np.maximum(np.abs(split(high_N, HOP)).max(axis=1), SILENT_POWER)))
    level_F, is_voiced_F, peak_H = (np.concatenate(parts) for parts in (levels, voiced, peaks))
    is_sound_F = level_F > max(level_F.max(initial=-np.inf) - MAX_RANGE_DB, _decibels(np.array(SILENT_POWER)))
    if not is_sound_F.any():
        return SpeechLevels(speech=None, voiced_seconds=0.0, range=0.0, peak_H=peak_H)
    quiet, loud = np.percentile(level_F[is_sound_F], (10, 95))
    is_loud_F = is_sound_F & (level_F >= min(quiet + ABOVE_QUIET_DB, loud))
    is_speech_F = is_loud_F & is_voiced_F
    has_voice = is_speech_F.sum() >= MIN_VOICED_FRAMES
    speech_F = level_F[is_speech_F if has_voice else is_loud_F]
    speech_F = speech_F[speech_F > np.median(speech_F) - BELOW_SPEECH_DB]
    return SpeechLevels(
        speech=float(np.median(speech_F)),
        voiced_seconds=len(speech_F) / FPS if has_voice else 0.0,
        range=float(loud - quiet),
        peak_H=peak_H,
    )


def filter_start(sections: np.ndarray, waveform_N: np.ndarray) -> np.ndarray:
    """The state of a filter at the first sample, after it has settled on the beginning, mirrored in that sample."""
    mirrored_N = 2.0 * waveform_N[:1] - waveform_N[1 : SETTLING_SAMPLES + 1][::-1]
    _, state = signal.sosfilt(sections, mirrored_N, zi=np.zeros((len(sections), 2)))
    return np.asarray(state)


def split(samples_N: np.ndarray, size: int) -> np.ndarray:
    """Rows of `size` samples, the last one padded with zeros."""
    return np.pad(samples_N, (0, -len(samples_N) % size)).reshape(-1, size)


def _periodicity(frames_FN: np.ndarray) -> np.ndarray:
    """The largest autocorrelation (F,) at the periods of PITCH_HZ, relative to the power."""
    lags = np.arange(SPEECH_RATE // PITCH_HZ[1], SPEECH_RATE // PITCH_HZ[0] + 1)
    spectrum_FK = np.fft.rfft(frames_FN, 2 * SAMPLES_PER_FRAME)
    correlation_FN = np.fft.irfft(np.abs(spectrum_FK) ** 2)
    unbiased_FL = correlation_FN[:, lags] * (SAMPLES_PER_FRAME / (SAMPLES_PER_FRAME - lags))
    return unbiased_FL.max(axis=1) / np.maximum(correlation_FN[:, 0], SILENT_POWER)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, SILENT_POWER))
