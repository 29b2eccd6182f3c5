"""Where the time of a request goes, told while it passes and counted at the end."""

import logging
import time
from collections import Counter

from src.serving.cancellation import report_progress

logger = logging.getLogger(__name__)


class StageTimer:
    """Seconds and number of reports by stage; each report is a line in the log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reports: Counter[str] = Counter()
        self._last = time.perf_counter()

    def done(self, stage: str, details: str = "") -> None:
        """The time since the last call belongs to `stage`; `details` are for the reader of the log.

        StoppedError when the request is to end.
        """
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self.reports[stage] += 1
        self._last = now
        told = f"{stage}: {details}" if details else stage
        logger.info("%s", told)
        report_progress(told)

    def mean(self, stage: str) -> float:
        """Seconds per report of a stage; 0 without any."""
        return self.seconds.get(stage, 0.0) / max(1, self.reports[stage])
