"""How well a read mouth agrees with a voice: correlation, lag, and what the other's voice adds.

Frames of several clips are pooled: they are put behind each other and counted alike, so that a short clip whose voice
hardly changes needs no rule of its own; it only adds frames. Shifts stay within a clip. A clip's first frame is the
picture that was given, and never counts. Shapes: F frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.mouths import Track

MAX_LAG = 5
MIN_OPENING = 0.05
"""A voice sounds where its track is above this."""
MIN_DEVIATION = 0.05
"""A clip whose own track deviates less has no correlation of its own; the mean over clips leaves it out."""
_NOTHING = 1e-9
"""What rounding leaves of a constant."""
_SHUFFLES = 8
_RESAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One face in one clip: what was read, the own voice's and the other's track, and where each has the floor.

    `floor` is where the own voice's recording lies on the timeline; `other` is None for a person alone. All F long.
    """

    face: int
    read: Track
    own: Track
    other: Track | None
    floor: NDArray[np.bool_]

    def part(self, start: int, stop: int | None) -> "Reading":
        """The same for frames [start, stop)."""
        span = slice(start, stop)
        other = None if self.other is None else self.other[span]
        return replace(self, read=self.read[span], own=self.own[span], other=other, floor=self.floor[span])


def correlation(read: Track, voice: Track) -> float:
    """Pearson's; 0 for a mouth that never moves, nan for a voice that never changes."""
    if not len(read):
        return float("nan")
    a, b = read - read.mean(), voice - voice.mean()
    if np.abs(b).max() < _NOTHING:
        return float("nan")
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if np.abs(a).max() >= _NOTHING else 0.0


def partial_correlation(read: Track, voice: Track, given: Track) -> float:
    """Correlation of what is left of both once `given` has been fitted to them linearly."""
    if len(read) < 4:
        return float("nan")
    base = np.stack((np.ones_like(given), given), axis=1)
    rest = [signal - base @ np.linalg.lstsq(base, signal, rcond=None)[0] for signal in (read, voice)]
    return correlation(*rest)


def own_correlation(readings: Sequence[Reading], lag: int = 0) -> float:
    """Of the read opening with the own voice's, pooled; at a positive lag the mouth is that many frames late."""
    read, own = zip(*(_shifted(reading.read, reading.own, lag) for reading in readings), strict=True)
    return correlation(np.concatenate(read), np.concatenate(own))


def best_lag(readings: Sequence[Reading]) -> int:
    """By how many frames the mouth is late (or, below 0, early): where the pooled correlation is highest."""
    lags = sorted(range(-MAX_LAG, MAX_LAG + 1), key=abs)
    found = [own_correlation(readings, lag) for lag in lags]
    return lags[int(np.argmax(np.nan_to_num(found, nan=-1)))]


def other_correlation(readings: Sequence[Reading]) -> float:
    """Of the read opening with the other's, given the own one, pooled over the frames where the other sounds."""
    parts: list[tuple[Track, Track, Track]] = []
    for reading in readings:
        if reading.other is not None:
            sounds = reading.other > MIN_OPENING
            parts.append((reading.read[sounds], reading.other[sounds], reading.own[sounds]))
    if not parts:
        return float("nan")
    read, other, own = (np.concatenate(tracks) for tracks in zip(*parts, strict=True))
    return partial_correlation(read, other, own)


def mean_correlation(readings: Sequence[Reading]) -> float:
    """The mean over clips by Fisher's z, of the clips whose own track moves."""
    found = [correlation(r.read, r.own) for r in readings if r.own.std() >= MIN_DEVIATION]
    found = [r for r in found if np.isfinite(r)]
    return float(np.tanh(np.mean(np.arctanh(np.clip(found, -0.9999, 0.9999))))) if found else float("nan")


def shuffled_correlation(readings: Sequence[Reading]) -> float:
    """The control: with the own track of the same face in another clip, over the frames where both have the floor.

    So neither who speaks when nor a true agreement helps. The mean over several shuffles; nan for a single clip.
    """
    faces = [[r for r in readings if r.face == face] for face in sorted({r.face for r in readings})]
    found = []
    for turn in range(1, min(_SHUFFLES, *(len(group) - 1 for group in faces), len(readings)) + 1):
        pairs = [pair for group in faces for pair in zip(group, [*group[turn:], *group[:turn]], strict=True)]
        both = [(a.read, b.own, a.floor & b.floor) for a, b in pairs]
        read = np.concatenate([read[floor] for read, _, floor in both])
        own = np.concatenate([own[floor] for _, own, floor in both])
        found.append(correlation(read, own))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def still(readings: Sequence[Reading]) -> tuple[float, float]:
    """Mean and deviation of the read opening where the own voice and both neighbouring frames are silent."""
    quiet = [reading.read[_silent(reading.own)] for reading in readings]
    frames = np.concatenate(quiet)
    return (float(frames.mean()), float(frames.std())) if len(frames) else (float("nan"), float("nan"))


def interval(readings: Sequence[Reading], figure: Callable[[Sequence[Reading]], float]) -> tuple[float, float]:
    """The middle 95 % of a figure over readings drawn again with replacement (Efron's bootstrap)."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(readings), size=len(readings)) for _ in range(_RESAMPLES))
    found = [figure([readings[i] for i in indices]) for indices in drawn]
    found = [value for value in found if np.isfinite(value)]
    low, high = np.percentile(found, (2.5, 97.5)) if found else (np.nan, np.nan)
    return float(low), float(high)


def _shifted(read: Track, own: Track, lag: int) -> tuple[Track, Track]:
    """The frames of both that meet when `read` is taken `lag` frames later."""
    if lag < 0:
        return read[:lag], own[-lag:]
    return read[lag:], own[: len(own) - lag]


def _silent(own: Track) -> NDArray[np.bool_]:
    loud = np.convolve(own > 0, np.ones(3), mode="same") > 0.5
    return ~loud
