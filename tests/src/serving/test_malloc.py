"""Freed memory in the middle of the heap is returned to the operating system."""

import ctypes
import os
from pathlib import Path

import pytest

from src.serving.malloc import trim_malloc_on_exit

libc = ctypes.CDLL(None)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="this C library has no malloc_trim")
def test_freed_memory_is_returned() -> None:
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(60_000) for _ in range(2000)]  # below the mmap threshold
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:  # the last one keeps the end of the heap in place
        libc.free(block)
    before = resident_bytes()
    with pytest.raises(KeyError), trim_malloc_on_exit():
        raise KeyError
    assert resident_bytes() < before - 50_000_000
    libc.free(blocks[-1])
