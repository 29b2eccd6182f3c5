"""Progress reporting and cancellation of requests that are served outside Cog."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


class CancelledError(BaseException):
    """The caller cancelled the request. Like Cog's own it is not an Exception, so `except Exception` lets it pass."""


def ignore_progress(_: str) -> None:
    """Progress callback that discards every message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """A request's id for log lines, its progress callback, and the event that cancels it."""

    request_id: str
    on_progress: Callable[[str], None] = ignore_progress
    cancelled: threading.Event = field(default_factory=threading.Event)

    def raise_if_cancelled(self) -> None:
        """CancelledError if the request has been cancelled."""
        if self.cancelled.is_set():
            raise CancelledError(f"{self.request_id} was cancelled")


_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


@contextmanager
def request_context(context: RequestContext) -> Iterator[None]:
    """Make `context` the current one of this thread inside the `with` block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def current_request_id() -> str | None:
    """Id of this thread's request, None outside of one."""
    context = _current.get()
    return None if context is None else context.request_id


def raise_if_cancelled() -> None:
    """CancelledError if this thread's request has been cancelled."""
    context = _current.get()
    if context is not None:
        context.raise_if_cancelled()


def cancel_event() -> threading.Event:
    """The event that cancels this thread's request; one that nobody sets outside of a request."""
    context = _current.get()
    return threading.Event() if context is None else context.cancelled


def report_progress(message: str) -> None:
    """Pass a message to the progress callback of this thread's request."""
    context = _current.get()
    if context is not None:
        context.on_progress(message)
