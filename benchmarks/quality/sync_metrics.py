"""Audio-visual sync metrics: correlation and lag of the measured mouth opening with the own and the other voice.

Frames of several clips are pooled by concatenation, so that clips with little movement need no special case. Lags are
applied within each clip. The first frame of a clip, the input image, is excluded by the caller. Shapes: F frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.mouths import MouthCurve

MAX_LAG = 5
MIN_OPENING = 0.05
"""A voice is audible in frames where its expected opening exceeds this."""
MIN_STD = 0.05
"""Clips whose expected opening has a smaller standard deviation are excluded from the mean over clips."""
_EPS = 1e-9
"""Deviation below which a signal counts as constant."""
_MAX_SHUFFLES = 8
_RESAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class MouthReading:
    """Measured and expected mouth opening of one face in one clip, F values each.

    `own` and `other` are the expected openings of the face's own voice and the other voice (None for one person);
    `active` marks frames in which the own recording plays.
    """

    face: int
    measured: MouthCurve
    own: MouthCurve
    other: MouthCurve | None
    active: NDArray[np.bool_]

    def slice(self, start: int, stop: int | None) -> "MouthReading":
        """The reading of frames [start, stop)."""
        span = np.s_[start:stop]
        other = None if self.other is None else self.other[span]
        return replace(self, measured=self.measured[span], own=self.own[span], other=other, active=self.active[span])


def correlation(measured: MouthCurve, expected: MouthCurve) -> float:
    """Pearson correlation; 0 if `measured` is constant, NaN if `expected` is constant or empty."""
    if not len(measured):
        return float("nan")
    a, b = measured - measured.mean(), expected - expected.mean()
    if np.abs(b).max() < _EPS:
        return float("nan")
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if np.abs(a).max() >= _EPS else 0.0


def partial_correlation(measured: MouthCurve, expected: MouthCurve, control: MouthCurve) -> float:
    """Correlation of the residuals of both signals after linear regression on `control`; NaN for under 4 frames."""
    if len(measured) < 4:
        return float("nan")
    base = np.stack((np.ones_like(control), control), axis=1)
    signals = (measured, expected)
    return correlation(*(signal - base @ np.linalg.lstsq(base, signal, rcond=None)[0] for signal in signals))


def own_correlation(readings: Sequence[MouthReading], lag: int = 0) -> float:
    """Pooled correlation with the own voice; at a positive lag the mouth is that many frames late."""
    measured, own = zip(*(_align(reading.measured, reading.own, lag) for reading in readings), strict=True)
    return correlation(np.concatenate(measured), np.concatenate(own))


def best_lag(readings: Sequence[MouthReading]) -> int:
    """Frames by which the mouth is late (negative: early): the lag of the highest pooled correlation."""
    lags = sorted(range(-MAX_LAG, MAX_LAG + 1), key=abs)
    correlations = [own_correlation(readings, lag) for lag in lags]
    return lags[int(np.argmax(np.nan_to_num(correlations, nan=-1)))]


def other_correlation(readings: Sequence[MouthReading]) -> float:
    """Pooled partial correlation with the other voice, controlling for the own, while the other is audible."""
    parts: list[tuple[MouthCurve, MouthCurve, MouthCurve]] = []
    for reading in readings:
        if reading.other is not None:
            audible = reading.other > MIN_OPENING
            parts.append((reading.measured[audible], reading.other[audible], reading.own[audible]))
    if not parts:
        return float("nan")
    measured, other, own = (np.concatenate(curves) for curves in zip(*parts, strict=True))
    return partial_correlation(measured, other, own)


def mean_correlation(readings: Sequence[MouthReading]) -> float:
    """Mean over clips by Fisher's z-transform, excluding clips with little movement (`MIN_STD`)."""
    values = [correlation(reading.measured, reading.own) for reading in readings if reading.own.std() >= MIN_STD]
    values = [value for value in values if np.isfinite(value)]
    return float(np.tanh(np.mean(np.arctanh(np.clip(values, -0.9999, 0.9999))))) if values else float("nan")


def shuffled_correlation(readings: Sequence[MouthReading]) -> float:
    """Control: correlation with the own voice of the same face in another clip, in frames where both recordings play.

    It is near 0 unless mouths follow only the turn-taking. Mean over several shuffles; NaN for a single clip.
    """
    faces = [[each for each in readings if each.face == face] for face in sorted({each.face for each in readings})]
    values = []
    for offset in range(1, min(_MAX_SHUFFLES, *(len(group) - 1 for group in faces), len(readings)) + 1):
        pairs = [pair for group in faces for pair in zip(group, [*group[offset:], *group[:offset]], strict=True)]
        masked = [(a.measured, b.own, a.active & b.active) for a, b in pairs]
        measured = np.concatenate([measured[active] for measured, _, active in masked])
        own = np.concatenate([own[active] for _, own, active in masked])
        values.append(correlation(measured, own))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def silent_opening(readings: Sequence[MouthReading]) -> tuple[float, float]:
    """Mean and standard deviation of the measured opening in frames that are silent, as are both neighbors."""
    frames = np.concatenate([reading.measured[_silent(reading.own)] for reading in readings])
    return (float(frames.mean()), float(frames.std())) if len(frames) else (float("nan"), float("nan"))


def bootstrap_interval(
    readings: Sequence[MouthReading], metric: Callable[[Sequence[MouthReading]], float]
) -> tuple[float, float]:
    """95 % bootstrap confidence interval of a metric (percentile method), resampling readings."""
    rng = np.random.default_rng(0)
    samples = (rng.integers(len(readings), size=len(readings)) for _ in range(_RESAMPLES))
    values = [metric([readings[i] for i in indices]) for indices in samples]
    values = [value for value in values if np.isfinite(value)]
    low, high = np.percentile(values, (2.5, 97.5)) if values else (np.nan, np.nan)
    return float(low), float(high)


def _align(measured: MouthCurve, own: MouthCurve, lag: int) -> tuple[MouthCurve, MouthCurve]:
    """The overlapping frames of both when `measured` is `lag` frames late."""
    if lag < 0:
        return measured[:lag], own[-lag:]
    return measured[lag:], own[: len(own) - lag]


def _silent(own: MouthCurve) -> NDArray[np.bool_]:
    loud = np.convolve(own > 0, np.ones(3), mode="same") > 0.5
    return ~loud
