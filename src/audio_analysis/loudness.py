"""Loudness by ITU-R BS.1770, so that a whisper and a shout move the lips alike."""

import numpy as np
import pyloudnorm

TARGET_LUFS = -23.0
# The meter works on blocks of this length and refuses less.
MIN_SECONDS = 0.4
# Beyond this the meter's answer is no loudness of a recording.
MAX_LUFS = 100.0


def normalise(waveform_N: np.ndarray, rate: int, target: float = TARGET_LUFS) -> np.ndarray:
    """Scale a mono waveform of `rate` Hz to `target` LUFS; (N,) float64, not limited.

    It is left alone where its loudness means nothing: shorter than MIN_SECONDS, silent, or beyond MAX_LUFS.
    """
    waveform_N = np.asarray(waveform_N, np.float64)
    if len(waveform_N) < MIN_SECONDS * rate or not waveform_N.any():
        return waveform_N
    loudness = pyloudnorm.Meter(rate).integrated_loudness(waveform_N)
    if not np.isfinite(loudness) or abs(loudness) > MAX_LUFS:
        return waveform_N
    return waveform_N * 10 ** ((target - loudness) / 20)
