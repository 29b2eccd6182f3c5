"""Errors caused by a request's inputs, and how an error message quotes a value. Imports nothing."""

MAX_REPR = 100


class InputError(ValueError):
    """An input cannot be used. The message names the input, the offending value and what is allowed."""


def truncated_repr(value: object) -> str:
    """`repr` of a value for an error message, cut after MAX_REPR characters."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= MAX_REPR:
        return repr(value)
    start = text[:MAX_REPR]
    return f"{start!r}... ({len(text):,} characters)" if text is value else f"{start}... ({len(text):,} characters)"
