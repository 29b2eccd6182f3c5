"""What is said to the person who sent the request."""

MAX_REPR = 100


class InputError(ValueError):
    """An input cannot be used. The message names the input, the offending value and what is allowed."""


def truncated_repr(text: str) -> str:
    """A caller's text as a message repeats it: in quotes, and only the beginning of a long one."""
    return repr(text) if len(text) <= MAX_REPR else f"{text[:MAX_REPR]!r}... ({len(text):,} characters)"
