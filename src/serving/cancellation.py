"""Progress reporting and cancellation of requests that are served outside Cog."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

POLL_S = 0.1
"""How long a cancellation may take while a function blocks."""

T = TypeVar("T")


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


def run_cancellable(function: Callable[[], T], check: Callable[[], object] = raise_if_cancelled) -> T:
    """The result of a function that blocks in system calls, run in another thread.

    An exception that `check` raises, or that is raised in this thread as Cog's cancellation, does not wait for the
    function, whose own request is then cancelled.
    """
    context = RequestContext(request_id=current_request_id() or "fetch")
    outcome: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            with request_context(context):
                outcome.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            outcome.put((None, error))

    try:
        start_thread(threading.Thread(target=run, name="fetch", daemon=True))
        result, error = wait_for(outcome, check)
    finally:
        context.cancelled.set()
    if error is not None:
        raise error
    return cast(T, result)


def wait_for(items: SimpleQueue[T], check: Callable[[], object] = raise_if_cancelled) -> T:
    """The next item of a queue. `check` is called meanwhile."""
    while True:
        try:
            return items.get(timeout=POLL_S)
        except Empty:
            check()


def start_thread(thread: threading.Thread) -> None:
    """`thread.start()` for code that Cog may cancel; returns when the thread has started.

    Cog cancels with PyThreadState_SetAsyncExc. CPython gives a new thread the identity of the one that starts it until
    it runs, so that an exception for that one may end the new thread instead, and `start` then waits for ever. Hence
    every thread is started by a thread that Cog does not know. Locks of Python classes (Event, Condition, Queue) may
    stay locked after such an exception; SimpleQueue has none.
    """
    started: SimpleQueue[BaseException | None] = SimpleQueue()
    starter(os.getpid()).put((thread, started))
    if (error := wait_for(started)) is not None:
        raise error


@cache
def starter(_: int) -> SimpleQueue[tuple[threading.Thread, SimpleQueue[BaseException | None]]]:
    """The queue of the thread that starts other threads; a forked process has one of its own."""
    threads: SimpleQueue[tuple[threading.Thread, SimpleQueue[BaseException | None]]] = SimpleQueue()

    def run() -> None:
        while True:
            thread, started = threads.get()
            try:
                thread.start()
                started.put(None)
            except RuntimeError as error:
                started.put(error)

    threading.Thread(target=run, name="starter", daemon=True).start()
    return threads


starter(os.getpid())  # now, when nothing can be cancelled yet
