"""Stage timing, progress reports, cancellation and the time limit of one request."""

import logging
import time

from src.serving.cancellation import raise_if_cancelled, report_progress
from src.serving.eta import RuntimeEstimator
from src.serving.timing import StageTimer
from wan.progress import Progress

logger = logging.getLogger("multitalk")


class JobProgress:
    """Times the stages of a request, of which the first, "inputs", has just ended.

    `started` is when the request began (`time.perf_counter()`); `max_runtime` counts from then, in seconds, None for
    no limit.
    """

    def __init__(self, max_runtime: float | None, started: float) -> None:
        self.started = started
        self.timer = StageTimer(started)
        self.timer.mark("inputs")
        self.estimator = RuntimeEstimator(self.timer, max_runtime, started)

    def finish(self, stage: str, details: str = "") -> None:
        """Record that a stage, or a step of it, is done. Raises CancelledError when the request was cancelled."""
        self.timer.mark(stage)
        message = f"{stage}: {details}" if details else stage
        logger.info("%s", message)
        report_progress(message)
        raise_if_cancelled()

    def on_pipeline_progress(self, progress: Progress) -> None:
        """The pipeline's callback. Raises CancelledError, and TimeLimitError when the time limit will be exceeded."""
        step = f", step {progress.step} of {progress.num_steps}" if progress.num_steps > 1 else ""
        self.finish(progress.stage, f"chunk {progress.chunk} of {progress.num_chunks}{step}")
        if progress.stage == "decode":
            self.finish("encode")  # a chunk's frames are handed to the encoder while it is decoded
        if progress.stage in ("denoise", "decode"):
            self.estimator.update(progress.chunk, progress.num_chunks, progress.fraction)

    @property
    def seconds(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self.started
