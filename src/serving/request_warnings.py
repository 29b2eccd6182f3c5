"""Warnings about a request that its caller reads in the metrics, and the operator in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger(__name__)

_messages: ContextVar[list[str] | None] = ContextVar("request_warnings", default=None)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """The list to which `warn_caller` adds inside the `with` block."""
    messages: list[str] = []
    token = _messages.set(messages)
    try:
        yield messages
    finally:
        _messages.reset(token)


def warn_caller(message: str) -> None:
    """Log a warning, and keep it once for the metrics of this thread's request."""
    logger.warning("%s", message)
    messages = _messages.get()
    if messages is not None and message not in messages:
        messages.append(message)
