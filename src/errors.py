"""Errors shared by every part: invalid inputs of a request, transient network faults. Imports nothing."""

MAX_REPR = 100
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes after which the same request may succeed."""


class InputError(ValueError):
    """An input cannot be used. The message names the input, the offending value and what is allowed."""


class TransientError(Exception):
    """A network fault that a retry may resolve. Each client converts it to its own error after the last attempt."""


def truncated_repr(value: object) -> str:
    """`repr` of a value for an error message, cut after MAX_REPR characters."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= MAX_REPR:
        return repr(value)
    start = text[:MAX_REPR]
    return f"{start!r}... ({len(text):,} characters)" if text is value else f"{start}... ({len(text):,} characters)"
