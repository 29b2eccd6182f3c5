"""Repair of the waveform that moves the lips; what is heard in the video is not changed.

The speech encoder normalizes its whole input, so that an offset, rumble, hum of the mains or one click decides how loud
a voice is for it. They are removed where they are strong enough to matter. An ordinary waveform is returned as it is.
N samples at 16 kHz, F frames of 40 ms, H hops of 10 ms.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage, signal

from src.audio_analysis.levels import (
    HOP,
    SpeechLevels,
    filter_start,
    measure_levels,
    segments,
    split,
)
from src.media.audio.spool import spool
from src.media.rates import SAMPLES_PER_FRAME, SPEECH_RATE

SUBSONIC_HZ = 20
# Power below it, relative to the whole, from which on it is removed: in quiet frames, where speech has none.
SUBSONIC_DB, QUIET_PERCENTILE = -24.0, 5
# The power of the whole is that of its loud frames, without accidents.
LOUD_PERCENTILE = 75
SILENT_POWER = 1e-9
# Harmonics of the mains: the highest, and their power relative to the whole from which on they are removed.
MAINS_HZ, MAX_HUM_HZ, HUM_DB = (50, 60), 500, -20.0
# Such a line stands out from its surroundings by this much in every second, and at least one of them is steady.
MIN_PROMINENCE_DB, MAX_UNSTEADINESS_DB = 15.0, 3.0
NOTCH_Q = 15.0
# Decibels above the median frame of speech, whose own samples stay below 21. Louder ones are an accident, which is
# lowered to the second level wherever it exceeds that.
ACCIDENT_DB, NORMAL_PEAK_DB = 24.0, 12.0
# Accidents that last longer, relative to voiced speech, are the speech.
MAX_ACCIDENT_SHARE = 1.0
# Speech below this level is amplified; the loudness meter would count it as silence.
QUIET_DB, AMPLIFIED_DB = -64.0, -23.0


class Repaired(NamedTuple):
    """A waveform (N,), a description of each change, and the levels before any amplification."""

    waveform_N: np.ndarray
    changes: list[str]
    levels: SpeechLevels


def repair(waveform_N: np.ndarray) -> Repaired:
    """The waveform without what would disturb the speech encoder."""
    filters, changes = _find_disturbances(waveform_N)
    if filters:
        waveform_N = spool(chunk_N[None] for chunk_N in _filter(waveform_N, np.concatenate(filters)))[0]
    levels = measure_levels(waveform_N)
    gain_H, seconds = _accident_gain(levels)
    if seconds:
        changes.append(f"{seconds:.2f} s that are more than {ACCIDENT_DB:.0f} dB louder than the speech are lowered")
        waveform_N = spool(_amplify(waveform_N, gain_H))[0]
        levels = measure_levels(waveform_N)
    if levels.speech is not None and levels.speech < QUIET_DB and levels.is_speech:
        changes.append(f"a level of {levels.speech:.0f} dB is raised")
        gain = 10 ** ((AMPLIFIED_DB - levels.speech) / 20)
        waveform_N = spool(segment_N[None] * gain for segment_N in segments(waveform_N))[0]
    return Repaired(waveform_N, changes, levels)


def _find_disturbances(waveform_N: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
    """Filters, as second-order sections, against what is too strong, and a description of each."""
    low_pass = signal.butter(4, SUBSONIC_HZ, fs=SPEECH_RATE, output="sos")
    state = filter_start(low_pass, waveform_N)
    window_N = signal.get_window("hann", SPEECH_RATE)
    powers, subsonic_powers, spectra = [], [], [np.empty((0, MAX_HUM_HZ + 21))]
    for segment_N in segments(waveform_N):
        low_N, state = signal.sosfilt(low_pass, segment_N, zi=state)
        powers.append(np.square(split(segment_N, SAMPLES_PER_FRAME), dtype=np.float64).mean(axis=1))
        subsonic_powers.append(np.square(split(low_N, SAMPLES_PER_FRAME)).mean(axis=1))
        seconds_SN = segment_N[: len(segment_N) // SPEECH_RATE * SPEECH_RATE].reshape(-1, SPEECH_RATE)
        spectra.append(np.abs(np.fft.rfft(window_N * seconds_SN)[:, : MAX_HUM_HZ + 21]) ** 2)
    power_F, subsonic_F = np.concatenate(powers), np.concatenate(subsonic_powers)
    is_sound_F = power_F > SILENT_POWER
    if not is_sound_F.any():
        return [], []
    loud, steady = np.percentile(power_F, LOUD_PERCENTILE), np.percentile(subsonic_F[is_sound_F], QUIET_PERCENTILE)
    filters, changes = [], []
    if steady > loud * 10 ** (SUBSONIC_DB / 10):
        filters.append(signal.butter(4, SUBSONIC_HZ, "highpass", fs=SPEECH_RATE, output="sos"))
        changes.append(f"an offset or rumble below {SUBSONIC_HZ} Hz is removed")
    lines = _find_hum(np.concatenate(spectra), float(loud))
    if lines:
        filters += [signal.tf2sos(*signal.iirnotch(line, NOTCH_Q, fs=SPEECH_RATE)) for line in lines]
        changes.append(f"hum of {lines[0]} Hz is removed")
    return filters, changes


def _find_hum(power_SK: np.ndarray, loud: float) -> list[int]:
    """Frequencies of the harmonics of 50 or 60 Hz that stand out in all seconds; none if they are weak.

    `power_SK` are Hann-windowed power spectra of seconds, in steps of 1 Hz; `loud` is the power of the whole.
    """
    if not len(power_SK):
        return []
    quiet_K, loud_K = np.percentile(power_SK, (10, 90), axis=0)
    best: list[int] = []
    for mains in MAINS_HZ:
        lines = [line for line in range(mains, MAX_HUM_HZ + 1, mains) if _is_prominent(quiet_K, line)]
        is_steady = any(loud_K[line] < quiet_K[line] * 10 ** (MAX_UNSTEADINESS_DB / 10) for line in lines)
        # A sine of power p has, in the three bins of its line, 3/8 p N^2 / 2 in a one-sided spectrum.
        power = sum(quiet_K[line - 1 : line + 2].sum() for line in lines) / (0.1875 * SPEECH_RATE**2)
        is_hum = is_steady and lines[0] <= 2 * mains
        if is_hum and power > loud * 10 ** (HUM_DB / 10) and len(lines) > len(best):
            best = lines
    return best


def _is_prominent(power_K: np.ndarray, line: int) -> bool:
    around = np.median(np.concatenate([power_K[line - 12 : line - 4], power_K[line + 5 : line + 13]]))
    return bool(power_K[line - 1 : line + 2].max() > around * 10 ** (MIN_PROMINENCE_DB / 10))


def _filter(waveform_N: np.ndarray, sections: np.ndarray) -> Iterator[np.ndarray]:
    """Filtered segments."""
    state = filter_start(sections, waveform_N)
    for segment_N in segments(waveform_N):
        filtered_N, state = signal.sosfilt(sections, segment_N, zi=state)
        yield filtered_N


def _accident_gain(levels: SpeechLevels) -> tuple[np.ndarray, float]:
    """The gain (H,) that lowers accidents, 1 elsewhere, and their seconds."""
    if levels.speech is None:
        return np.ones_like(levels.peak_H), 0.0
    above_H = levels.peak_H - levels.speech
    groups_H, num_groups = ndimage.label(above_H > NORMAL_PEAK_DB)
    largest = ndimage.maximum(above_H, groups_H, np.arange(num_groups + 1))
    is_accident_H = (groups_H > 0) & (np.asarray(largest)[groups_H] > ACCIDENT_DB)
    seconds = float(is_accident_H.sum() * HOP / SPEECH_RATE)
    if seconds > MAX_ACCIDENT_SHARE * levels.voiced_seconds:
        return np.ones_like(above_H), 0.0
    gain_H = np.where(is_accident_H, 10 ** ((NORMAL_PEAK_DB - above_H) / 20), 1.0)
    return ndimage.minimum_filter1d(gain_H, 3), seconds


def _amplify(waveform_N: np.ndarray, gain_H: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks (1, n) with a gain that changes linearly between the middles of hops."""
    middle_H, first = (np.arange(len(gain_H)) + 0.5) * HOP, 0
    for chunk_N in segments(waveform_N):
        gain_N = np.interp(np.arange(first, first + len(chunk_N)), middle_H, gain_H)
        yield (chunk_N * gain_N)[None]
        first += len(chunk_N)
