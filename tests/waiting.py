"""Waiting for a state instead of for a time."""

import time
from collections.abc import Callable

LIMIT_S = 240.0
"""Generous: reached only when the state never comes."""


def wait_until(condition: Callable[[], object], describe: Callable[[], object] = lambda: "") -> None:
    """Return once `condition` is true; AssertionError with the description after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.01)
