"""Whoever waits for a request, outside of Cog: hears how far it is, and may stop it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


class StoppedError(BaseException):
    """The request was stopped by whoever waits for it; like Cog's own cancelling no Exception, so that it passes."""


def nobody(_: str) -> None:
    """For requests whose progress nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """The request's id for the log, who is told of its progress, and whether it is to end."""

    request: str
    tell: Callable[[str], None] = nobody
    stop: threading.Event = field(default_factory=threading.Event)


_current: ContextVar[Follower | None] = ContextVar("follower", default=None)


@contextmanager
def followed(follower: Follower) -> Iterator[None]:
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


def check_wanted() -> None:
    """StoppedError when the work is to end here."""
    follower = _current.get()
    if follower is not None and follower.stop.is_set():
        raise StoppedError(f"{follower.request} was stopped")


def passed(progress: str) -> None:
    """The work has come this far. StoppedError when it is to end here."""
    check_wanted()
    follower = _current.get()
    if follower is not None:
        follower.tell(progress)
