"""Loudness normalization by ITU-R BS.1770, so that quiet and loud voices move the lips alike."""

import numpy as np
import pyloudnorm

from src.media.audio.spool import iter_chunks, release_pages, spool

TARGET_LUFS = -23.0
# Gating blocks of this length overlap by three quarters; pyloudnorm refuses shorter audio.
MIN_SECONDS = 0.4
HOPS_PER_BLOCK = 4
# A larger magnitude is not the loudness of a recording.
MAX_LUFS = 100.0
# Longer audio is measured in segments, each preceded by audio in which the K-weighting filters settle.
SEGMENT_SECONDS = 40
WARMUP_SECONDS = 1
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0
_OFFSET = 0.691


def normalize(waveform_N: np.ndarray, sample_rate: int, target: float = TARGET_LUFS) -> np.ndarray:
    """Scale a mono waveform to `target` LUFS, in float64 and without a limiter; (N,) float32."""
    gain = normalization_gain(waveform_N, sample_rate, target)
    return spool(chunk_N.astype(np.float64)[None] * gain for chunk_N in iter_chunks(waveform_N))[0]


def normalization_gain(waveform_N: np.ndarray, sample_rate: int, target: float = TARGET_LUFS) -> float:
    """The factor that scales a waveform to `target` LUFS.

    1 where the loudness is meaningless: shorter than MIN_SECONDS, silent, or beyond MAX_LUFS.
    """
    loudness = measure(waveform_N, sample_rate)
    if not np.isfinite(loudness) or abs(loudness) > MAX_LUFS:
        return 1.0
    return float(10 ** ((target - loudness) / 20))


def measure(waveform_N: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS; minus infinity for silence."""
    if len(waveform_N) < MIN_SECONDS * sample_rate:
        return -np.inf
    if len(waveform_N) > (SEGMENT_SECONDS + WARMUP_SECONDS) * sample_rate:
        return integrate(block_loudness(waveform_N, sample_rate))
    samples_N = waveform_N.astype(np.float64)
    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(samples_N)) if samples_N.any() else -np.inf


def block_loudness(waveform_N: np.ndarray, sample_rate: int) -> np.ndarray:
    """The loudness of every gating block, in LUFS, measured segment by segment."""
    meter, segments = pyloudnorm.Meter(sample_rate), []
    hop = round(MIN_SECONDS / HOPS_PER_BLOCK * sample_rate)
    segment, warmup = SEGMENT_SECONDS * sample_rate, WARMUP_SECONDS * sample_rate
    for first in range(0, len(waveform_N) - HOPS_PER_BLOCK * hop + 1, segment):
        start = max(0, first - warmup)
        samples_N = waveform_N[start : first + segment + (HOPS_PER_BLOCK - 1) * hop].astype(np.float64)
        release_pages(waveform_N)
        if samples_N.any():
            meter.integrated_loudness(samples_N)
            blocks = np.array(meter.blockwise_loudness)
        else:
            blocks = np.full(round(len(samples_N) / hop) - (HOPS_PER_BLOCK - 1), -np.inf)
        segments.append(blocks[(first - start) // hop :][: segment // hop])
    return np.concatenate(segments)


def integrate(blocks: np.ndarray) -> float:
    """Integrated loudness: the mean power of the blocks above the absolute gate, then above the relative gate."""
    power = 10 ** ((blocks + _OFFSET) / 10)
    is_loud = blocks >= _ABSOLUTE_GATE
    if not is_loud.any():
        return -np.inf
    relative_gate = 10 * np.log10(power[is_loud].mean()) - _OFFSET + _RELATIVE_GATE
    return float(10 * np.log10(power[is_loud & (blocks > relative_gate)].mean()) - _OFFSET)
