"""How long a request will still take, told from its first steps on, and who it would take too long for."""

import logging
import time

from src.serving.timing import StageTimer

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3
"""Denoising steps before anything is said."""
MIN_REPORTED_S = 30.0
"""Seconds left, below which nobody wants to hear of them."""
_OF_A_CHUNK = ("condition", "decode", "encode")


class TimeLimitError(ValueError):
    """The request would not be done in the time that it may take."""


class RuntimeEstimator:
    """Reads the stages of a request that began now; `limit` is in seconds, None for no limit."""

    def __init__(self, stages: StageTimer, limit: float | None, started: float | None = None) -> None:
        self.stages = stages
        self.limit = limit
        self.started = time.perf_counter() if started is None else started
        self.told = 0
        self.expected: float | None = None

    def remaining(self, chunks: int, denoised: float) -> float:
        """Seconds left, of which `denoised` is what has been denoised, in chunks.

        What a stage has taken a chunk so far, it will take for those to come. A stage that has not been reached yet
        counts nothing, so that early in the first chunk the truth is rather more.
        """
        each = self.stages.seconds.get("denoise", 0.0) / denoised
        rest = sum(self.stages.mean(stage) * (chunks - self.stages.reports[stage]) for stage in _OF_A_CHUNK)
        return each * (chunks - denoised) + rest

    def look(self, chunk: int, chunks: int, share: float) -> None:
        """After a step: `share` of the work of denoising chunk number `chunk` is done.

        Raises `TimeLimitError` once the time that has passed and the time that is left are together above the limit.
        """
        if self.stages.reports["denoise"] < WARMUP_STEPS and share < 1:
            return
        left = self.remaining(chunks, chunk - 1 + share)
        self.expected = time.perf_counter() - self.started + left
        if self.told < chunk and left >= MIN_REPORTED_S:
            self.told = chunk
            logger.info("about %.0f s left of %.0f s", left, self.expected)
        if self.limit is not None and self.expected > self.limit:
            raise TimeLimitError(
                f"this video would take about {self.expected:,.0f} s; {self.limit:,.0f} s are allowed (the operator "
                "sets MAX_RUNTIME): fewer num_frames or sampling_steps, resolution 480p or preset fast take less"
            )
