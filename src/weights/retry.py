"""Timeouts, retries and cancellation of downloads."""

import logging
import threading
from dataclasses import dataclass, field

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from src.errors import TransientError
from src.weights.errors import CancelledError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Limits of one download. All times are in seconds.

    `timeout_s` (in total) and `stall_s` (without a new byte on disk) end pget, which retries by itself.
    `read_s`, `attempts` and `backoff_s` apply to requests to the hub. `cancelled` ends every download.
    """

    timeout_s: float = 3 * 3600.0
    stall_s: float = 300.0
    read_s: float = 30.0
    attempts: int = 8
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def retrying(self) -> Retrying:
        """Retry a call on TransientError with exponential backoff; the last TransientError is re-raised."""
        return Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(multiplier=self.backoff_s, max=self.max_backoff_s),
            stop=stop_after_attempt(self.attempts) | stop_when_event_set(self.cancelled),
            sleep=sleep_using_event(self.cancelled),
            before_sleep=log_retry,
            reraise=True,
        )

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError if the download was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError("cancelled")


def log_retry(state: RetryCallState) -> None:
    """Log a transient fault and the delay before the next attempt."""
    if state.outcome is not None and state.next_action is not None:
        logger.warning("%s; retrying in %.1f s", state.outcome.exception(), state.next_action.sleep)
