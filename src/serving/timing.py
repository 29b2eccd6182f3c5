"""Seconds that a request spends in each of its stages."""

import time
from collections import Counter


class StageTimer:
    """Seconds and number of marks by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """Add the time since the previous mark to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self.counts[stage] += 1
        self._last = now

    def mean(self, stage: str) -> float:
        """Seconds per mark of a stage; 0 without any."""
        return self.seconds.get(stage, 0.0) / max(1, self.counts[stage])
