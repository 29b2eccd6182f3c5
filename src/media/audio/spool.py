"""Long sounds wait in a file without a name, so that memory does not grow with their length.

They are arrays all the same, read-only; whoever goes through one piece by piece leaves nothing of it in memory.
N samples, C channels.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

CHUNK_SAMPLES = 1 << 18
"""Samples at a time: 16 seconds of 16 kHz."""
MAX_IN_MEMORY = 1 << 22
"""Bytes that stay where they are: 65 seconds of one channel of 16 kHz."""


def spool(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Parts (C, n), at least one, behind each other as one array (C, N) of float32; a long one is in a file."""
    channels = 0
    with tempfile.SpooledTemporaryFile(max_size=MAX_IN_MEMORY) as file:
        for part_CN in parts:
            channels = len(part_CN)
            file.write(np.ascontiguousarray(part_CN.T, np.float32).tobytes())
        assert channels, "no parts"
        if file.tell() <= MAX_IN_MEMORY:
            file.seek(0)
            return np.frombuffer(file.read(), np.float32).reshape(-1, channels).T.copy()
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays valid when the file is closed
    return np.frombuffer(mapped, np.float32).reshape(-1, channels).T


def iter_chunks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """An array in pieces of at most CHUNK_SAMPLES along its last axis, at least one; what has been read is let go."""
    for first in range(0, max(1, samples.shape[-1]), CHUNK_SAMPLES):
        yield samples[..., first : first + CHUNK_SAMPLES]
        release_pages(samples)


def zeros(channels: int, samples: int) -> Iterator[np.ndarray]:
    """As many zeros (C, n), in pieces."""
    for first in range(0, samples, CHUNK_SAMPLES):
        yield np.zeros((channels, min(CHUNK_SAMPLES, samples - first)), np.float32)


def peak(samples: np.ndarray) -> float:
    """The largest magnitude; 0 without any."""
    return max(float(np.abs(piece).max(initial=0.0)) for piece in iter_chunks(samples))


def release_pages(samples: np.ndarray) -> None:
    """Leave what was read of an array from a file to the file."""
    while isinstance(samples.base, np.ndarray):
        samples = samples.base
    if isinstance(samples.base, memoryview) and isinstance(samples.base.obj, mmap.mmap):
        samples.base.obj.madvise(mmap.MADV_DONTNEED)
