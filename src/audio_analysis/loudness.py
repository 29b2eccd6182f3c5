"""Loudness by ITU-R BS.1770, so that a whisper and a shout move the lips alike."""

import numpy as np
import pyloudnorm

from src.media.audio.spool import iter_chunks, release_pages, spool

TARGET_LUFS = -23.0
# The meter works on blocks of this length and refuses less; they begin every quarter of it.
MIN_SECONDS = 0.4
# Beyond this the meter's answer is no loudness of a recording.
MAX_LUFS = 100.0
# A longer sound is metered in parts of so many seconds, each after a run-up in which the meter's filters settle.
SEGMENT_SECONDS = 40
WARMUP_SECONDS = 1
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0
_OFFSET = 0.691


def normalize(waveform_N: np.ndarray, rate: int, target: float = TARGET_LUFS) -> np.ndarray:
    """Scale a mono waveform of `rate` Hz to `target` LUFS; (N,) float32, not limited.

    It is metered and scaled in float64, and left alone where its loudness means nothing: shorter than MIN_SECONDS,
    silent, or beyond MAX_LUFS.
    """
    loudness = measure(waveform_N, rate)
    if not np.isfinite(loudness) or abs(loudness) > MAX_LUFS:
        return waveform_N.astype(np.float32, copy=False)
    gain = 10 ** ((target - loudness) / 20)
    return spool(piece_N.astype(np.float64)[None] * gain for piece_N in iter_chunks(waveform_N))[0]


def measure(waveform_N: np.ndarray, rate: int) -> float:
    """Integrated loudness in LUFS; minus infinity where nothing is heard."""
    if len(waveform_N) < MIN_SECONDS * rate:
        return -np.inf
    if len(waveform_N) > (SEGMENT_SECONDS + WARMUP_SECONDS) * rate:
        return gated_mean(blocks_of(waveform_N, rate))
    sound_N = waveform_N.astype(np.float64)
    return float(pyloudnorm.Meter(rate).integrated_loudness(sound_N)) if sound_N.any() else -np.inf


def blocks_of(waveform_N: np.ndarray, rate: int) -> np.ndarray:
    """Loudness of every block of MIN_SECONDS, in LUFS, part by part."""
    meter, found = pyloudnorm.Meter(rate), []
    hop = round(MIN_SECONDS / 4 * rate)
    part, run_up = SEGMENT_SECONDS * rate, WARMUP_SECONDS * rate
    for first in range(0, len(waveform_N) - 4 * hop + 1, part):
        begin = max(0, first - run_up)
        sound_N = waveform_N[begin : first + part + 3 * hop].astype(np.float64)
        release_pages(waveform_N)
        if sound_N.any():
            meter.integrated_loudness(sound_N)
            blocks = np.array(meter.blockwise_loudness)
        else:
            blocks = np.full(round(len(sound_N) / hop) - 3, -np.inf)
        found.append(blocks[(first - begin) // hop :][: part // hop])
    return np.concatenate(found)


def gated_mean(blocks: np.ndarray) -> float:
    """Integrated loudness of blocks: the mean power of those above the absolute, then above the relative gate."""
    power = 10 ** ((blocks + _OFFSET) / 10)
    heard = blocks >= _ABSOLUTE_GATE
    if not heard.any():
        return -np.inf
    relative = 10 * np.log10(power[heard].mean()) - _OFFSET + _RELATIVE_GATE
    return float(10 * np.log10(power[heard & (blocks > relative)].mean()) - _OFFSET)
