"""How long a download may take, how long it may stand still, and how often it tries again."""

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

from src.weights.errors import StoppedError

logger = logging.getLogger(__name__)


class TransientError(Exception):
    """A network fault that may pass; never leaves a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Limits of one download; all times in seconds.

    `timeout_s` is for pget, which cannot resume and may loop for ever; the others end when nothing new
    arrives: `attempts` in a row that bring no byte, `stall_s` without a byte. `stop` ends all of them.
    """

    timeout_s: float = 3 * 3600.0
    stall_s: float = 300.0
    connect_s: float = 15.0
    read_s: float = 30.0
    attempts: int = 8
    backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)

    def retrying(self) -> Retrying:
        """Call something until it does not raise TransientError; the last one is raised as it is."""
        return Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(multiplier=self.backoff_s, max=self.longest_backoff_s),
            stop=stop_after_attempt(self.attempts) | stop_when_event_set(self.stop),
            sleep=sleep_using_event(self.stop),
            before_sleep=report,
            reraise=True,
        )

    def check(self) -> None:
        """StoppedError once the download is to stop."""
        if self.stop.is_set():
            raise StoppedError("stopped")


def report(state: RetryCallState) -> None:
    """Tell the operator about a fault that is tried again."""
    if state.outcome is not None and state.next_action is not None:
        fault, delay = state.outcome.exception(), state.next_action.sleep
        logger.warning("%s; trying again in %.1f s", fault, delay)
