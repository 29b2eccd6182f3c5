"""From a voice to a mouth: how far it is open and how wide, for every video frame.

This is the rule by which the training data is drawn, and against which generated mouths are measured.
"""

import numpy as np
from numpy.typing import NDArray

from src.media.rates import SAMPLES_PER_FRAME, SPEECH_RATE
from training.voices import Sound

Track = NDArray[np.float64]

_WINDOW = 2 * SAMPLES_PER_FRAME
_FLOOR = 0.15
_LOUD = 95.0
_BALANCED = -1.6  # decades between the energy above and below 1.3 kHz of a neutral vowel
_SMOOTH = (0.2, 0.6, 0.2)


def loudness_track(voice: Sound) -> Track:
    """Root mean square around the middle of every frame of 40 ms: one value per frame, in units of the sound."""
    return np.sqrt(np.mean(_frames(voice) ** 2, axis=1))


def opening_track(voice: Sound) -> Track:
    """How far the mouth is open, 0..1 per frame: the voice's loudness relative to its own loud frames, compressed."""
    loudness = loudness_track(voice)
    loud = np.percentile(loudness[loudness > 0.05 * loudness.max()], _LOUD) if loudness.any() else 1.0
    relative = np.clip(loudness / loud, 0, 1) ** 0.7
    return _smooth(np.clip((relative - _FLOOR) / (1 - _FLOOR), 0, 1))


def shape_track(voice: Sound) -> Track:
    """How wide the mouth is, -1 (round, as for u) to 1 (spread, as for i), by the balance of the spectrum."""
    power = np.abs(np.fft.rfft(_frames(voice), axis=1)) ** 2
    frequency = np.fft.rfftfreq(_WINDOW, 1 / SPEECH_RATE)
    low = power[:, (frequency > 150) & (frequency < 1200)].sum(1)
    high = power[:, (frequency > 1500) & (frequency < 4000)].sum(1)
    loud = power.sum(1) > 1e-3 * power.sum(1).max()
    balance = np.where(loud, np.log10((high + 1e-9) / (low + 1e-9)), _BALANCED)
    return _smooth(np.clip((balance - _BALANCED) / 0.8, -1, 1))


def _frames(voice: Sound) -> NDArray[np.float64]:
    """Windowed samples around the middle of every frame: frames x samples."""
    count = len(voice) // SAMPLES_PER_FRAME
    margin = (_WINDOW - SAMPLES_PER_FRAME) // 2
    padded = np.pad(voice.astype(np.float64), (margin, margin + _WINDOW))
    starts = np.arange(count)[:, None] * SAMPLES_PER_FRAME
    return padded[starts + np.arange(_WINDOW)] * np.hanning(_WINDOW)


def _smooth(track: Track) -> Track:
    return np.convolve(np.pad(track, 1, mode="edge"), _SMOOTH, mode="valid")
