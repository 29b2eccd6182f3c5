"""Memory that a request freed goes back to the system.

The C library keeps it otherwise: a server's memory then jumps by several megabytes now and then, and nobody could tell
that from a leak.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def trim_malloc_on_exit() -> Iterator[None]:
    """Trims the heap at the end, however the work ends; a C library that cannot (glibc can) is left alone."""
    try:
        yield
    finally:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
