"""Estimate a request's remaining time from its first steps; fail early if it exceeds the time limit."""

import logging
import time
from collections.abc import Callable

from src.serving.timing import StageTimer

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3
"""Denoising steps before the first estimate."""
MIN_LOGGED_S = 30.0
"""Shorter remaining times are not logged."""
_OTHER_STAGES = ("condition", "decode", "encode")
"""Stages that every chunk goes through once, besides denoising."""


class TimeLimitError(ValueError):
    """The request would take longer than allowed."""


class RuntimeEstimator:
    """Estimates from a request's stage times how long it will take in all."""

    def __init__(
        self,
        timer: StageTimer,
        limit_s: float | None,
        started: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`started` is the request's start by `clock`, now by default; `limit_s` None means no limit."""
        self.timer = timer
        self.limit_s = limit_s
        self.clock = clock
        self.started = clock() if started is None else started
        self.logged_chunk = 0
        self.expected_s: float | None = None

    def remaining(self, num_chunks: int, chunks_denoised: float) -> float:
        """Seconds left after `chunks_denoised` chunks, a fraction included.

        Assumes that every chunk takes as long as the chunks so far. A stage that has not run yet counts as 0, so that
        estimates made early in the first chunk are too low.
        """
        denoise_s = self.timer.seconds.get("denoise", 0.0) / chunks_denoised
        others_s = sum(self.timer.mean(stage) * (num_chunks - self.timer.counts[stage]) for stage in _OTHER_STAGES)
        return denoise_s * (num_chunks - chunks_denoised) + others_s

    def update(self, chunk: int, num_chunks: int, fraction: float) -> None:
        """Estimate again after a step: `fraction` (0..1) of the denoising of chunk number `chunk` (from 1) is done.

        Raises `TimeLimitError` if the elapsed and the remaining time together exceed the limit.
        """
        if self.timer.counts["denoise"] < WARMUP_STEPS and fraction < 1:
            return
        remaining_s = self.remaining(num_chunks, chunk - 1 + fraction)
        self.expected_s = self.clock() - self.started + remaining_s
        if self.logged_chunk < chunk and remaining_s >= MIN_LOGGED_S:
            self.logged_chunk = chunk
            logger.info("about %.0f s left of %.0f s", remaining_s, self.expected_s)
        if self.limit_s is not None and self.expected_s > self.limit_s:
            raise TimeLimitError(
                f"this video would take about {self.expected_s:,.0f} s; {self.limit_s:,.0f} s are allowed (the "
                "operator sets MAX_RUNTIME): fewer num_frames or sampling_steps, resolution 480p or preset fast take "
                "less"
            )
