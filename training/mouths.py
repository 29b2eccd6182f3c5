"""Mouth opening and shape for every video frame, computed from a voice.

Training data is rendered with these curves, and generated mouths are compared with them.
"""

import numpy as np
from numpy.typing import NDArray

from src.media.rates import SAMPLES_PER_FRAME, SPEECH_RATE
from training.voices import Waveform

MouthCurve = NDArray[np.float64]
"""One value per video frame."""

_WINDOW = 2 * SAMPLES_PER_FRAME
_SILENCE_LEVEL = 0.15
_LOUD_PERCENTILE = 95.0
_NEUTRAL_BALANCE = -1.6  # log10 ratio of the energy above to that below 1.3 kHz of a neutral vowel
_SMOOTHING = (0.2, 0.6, 0.2)


def frame_loudness(voice: Waveform) -> MouthCurve:
    """Root mean square around the middle of every 40 ms frame, in units of the samples."""
    return np.sqrt(np.mean(_frames(voice) ** 2, axis=1))


def opening_curve(voice: Waveform) -> MouthCurve:
    """Opening of the mouth in 0..1: loudness relative to the voice's 95th percentile, compressed."""
    loudness = frame_loudness(voice)
    loud = np.percentile(loudness[loudness > 0.05 * loudness.max()], _LOUD_PERCENTILE) if loudness.any() else 1.0
    relative = np.clip(loudness / loud, 0, 1) ** 0.7
    return _smooth(np.clip((relative - _SILENCE_LEVEL) / (1 - _SILENCE_LEVEL), 0, 1))


def shape_curve(voice: Waveform) -> MouthCurve:
    """Width of the mouth from -1 (rounded, as for u) to 1 (spread, as for i), by the energy above and below 1.3 kHz."""
    power = np.abs(np.fft.rfft(_frames(voice), axis=1)) ** 2
    frequency = np.fft.rfftfreq(_WINDOW, 1 / SPEECH_RATE)
    low = power[:, (frequency > 150) & (frequency < 1200)].sum(1)
    high = power[:, (frequency > 1500) & (frequency < 4000)].sum(1)
    loud = power.sum(1) > 1e-3 * power.sum(1).max()
    balance = np.where(loud, np.log10((high + 1e-9) / (low + 1e-9)), _NEUTRAL_BALANCE)
    return _smooth(np.clip((balance - _NEUTRAL_BALANCE) / 0.8, -1, 1))


def _frames(voice: Waveform) -> NDArray[np.float64]:
    """Windowed samples around the middle of every frame, frames x samples."""
    count = len(voice) // SAMPLES_PER_FRAME
    margin = (_WINDOW - SAMPLES_PER_FRAME) // 2
    padded = np.pad(voice.astype(np.float64), (margin, margin + _WINDOW))
    starts = np.arange(count)[:, None] * SAMPLES_PER_FRAME
    return padded[starts + np.arange(_WINDOW)] * np.hanning(_WINDOW)


def _smooth(curve: MouthCurve) -> MouthCurve:
    return np.convolve(np.pad(curve, 1, mode="edge"), _SMOOTHING, mode="valid")
