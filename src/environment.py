"""Read settings from environment variables; a ValueError names the variable, its value and what is allowed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Environ = Mapping[str, str]
Default = TypeVar("Default", float, None)


def read_choice(environ: Environ, name: str, choices: Sequence[str], default: str) -> str:
    """One of several words."""
    value = environ.get(name, default)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(choices)}")
    return value


def read_number(
    environ: Environ, name: str, default: Default, *, minimum: float | None = None, maximum: float = math.inf
) -> float | Default:
    """A finite number of at least `minimum` (above 0 if None) and at most `maximum`; `default` if unset or empty."""
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    above_minimum = value > 0 if minimum is None else value >= minimum
    if not above_minimum or value > maximum or value == math.inf:
        allowed = "above 0" if minimum is None else f"from {minimum:g}"
        limit = "" if maximum == math.inf else f" and at most {maximum:g}"
        raise ValueError(f"{name} is {text!r}; a number {allowed}{limit} is needed")
    return value


def read_flag(environ: Environ, name: str, *, default: bool) -> bool:
    """`1` or `0`; `default` for any other value."""
    return {"1": True, "0": False}.get(environ.get(name, ""), default)


def read_folder(environ: Environ, name: str) -> Path | None:
    """An existing folder; None if unset or empty."""
    text = environ.get(name)
    if text and not Path(text).is_dir():
        raise ValueError(f"{name} is {text!r}; an existing folder is needed")
    return Path(text) if text else None


def first_set(environ: Environ, *names: str) -> str | None:
    """The value of the first of these variables that is set and not empty."""
    return next((environ[name] for name in names if environ.get(name)), None)
