"""Whoever waits for a request, outside of Cog: hears how far it is, and may stop it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


class CancelledError(BaseException):
    """The request was stopped by whoever waits for it; like Cog's own cancelling no Exception, so that it passes."""


def ignore_progress(_: str) -> None:
    """For requests whose progress nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The request's id for the log, who is told of its progress, and whether it is to end."""

    request: str
    tell: Callable[[str], None] = ignore_progress
    stop: threading.Event = field(default_factory=threading.Event)


_current: ContextVar[RequestContext | None] = ContextVar("follower", default=None)


@contextmanager
def request_context(follower: RequestContext) -> Iterator[None]:
    """Everything within belongs to the follower's request."""
    token = _current.set(follower)
    try:
        yield
    finally:
        _current.reset(token)


def request_id() -> str | None:
    """The id of the request that this thread works on."""
    follower = _current.get()
    return None if follower is None else follower.request


def raise_if_cancelled() -> None:
    """CancelledError when the work is to end here."""
    follower = _current.get()
    if follower is not None and follower.stop.is_set():
        raise CancelledError(f"{follower.request} was stopped")


def report_progress(progress: str) -> None:
    """The work has come this far. CancelledError when it is to end here."""
    raise_if_cancelled()
    follower = _current.get()
    if follower is not None:
        follower.tell(progress)
