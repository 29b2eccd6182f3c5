"""A heap that has been emptied in the middle is given back."""

import ctypes
import os
from pathlib import Path

import pytest

from src.serving.malloc import trim_malloc_on_exit

libc = ctypes.CDLL(None)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="this C library keeps what is freed")
def test_what_was_freed_goes_back() -> None:
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(60_000) for _ in range(2000)]  # each too small to be mapped by itself
    for piece in pieces:
        ctypes.memset(piece, 1, 60_000)
    for piece in pieces[:-1]:  # the last one holds the heap's end where it is
        libc.free(piece)
    full = resident()
    with pytest.raises(KeyError), trim_malloc_on_exit():
        raise KeyError
    assert resident() < full - 50_000_000
    libc.free(pieces[-1])
