"""Return freed heap memory to the operating system after each request.

glibc keeps it otherwise: the server's memory then grows in jumps of several megabytes, which look like a leak.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

LIBC = ctypes.CDLL(None)
"""One for all requests: each CDLL makes a class and a reference cycle."""


@contextmanager
def trim_malloc_on_exit() -> Iterator[None]:
    """Call `malloc_trim(0)` on exit, after exceptions too; without effect in C libraries that lack it."""
    try:
        yield
    finally:
        trim = getattr(LIBC, "malloc_trim", None)
        if trim is not None:
            trim(0)
