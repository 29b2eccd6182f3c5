"""Seconds that a request spends in each of its stages."""

import time
from collections import Counter


class StageTimer:
    """Seconds and number of marks by stage."""

    def __init__(self, started: float | None = None) -> None:
        """The first stage begins at `started` (`time.perf_counter()`), now if None."""
        self.seconds: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._last = time.perf_counter() if started is None else started

    def add(self, stage: str) -> None:
        """Add the time since the previous call to `stage`, which goes on: it is not counted as done."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def mark(self, stage: str) -> None:
        """Add the time since the previous call to `stage` and count it as done once more."""
        self.add(stage)
        self.counts[stage] += 1

    def mean(self, stage: str) -> float:
        """Seconds per mark of a stage; 0 without any."""
        return self.seconds.get(stage, 0.0) / max(1, self.counts[stage])
