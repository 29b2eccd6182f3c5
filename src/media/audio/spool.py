"""Sample arrays in unnamed temporary files, so that memory use does not grow with the length of the audio.

They are read-only memory maps; reading one with `iter_chunks` keeps at most one chunk of it in memory.
N samples, C channels.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

CHUNK_SAMPLES = 1 << 18
"""16 seconds at 16 kHz."""
MAX_IN_MEMORY = 1 << 22
"""Bytes up to which an array stays in memory: 65 seconds of one channel at 16 kHz."""


def spool(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """Concatenate chunks (C, n), at least one, to an array (C, N) of float32, in a file if it is long."""
    num_channels = 0
    with tempfile.SpooledTemporaryFile(max_size=MAX_IN_MEMORY) as file:
        for chunk_CN in chunks:
            num_channels = len(chunk_CN)
            file.write(np.ascontiguousarray(chunk_CN.T, np.float32).tobytes())
        assert num_channels, "no chunks"
        if file.tell() <= MAX_IN_MEMORY:
            file.seek(0)
            return np.frombuffer(file.read(), np.float32).reshape(-1, num_channels).T.copy()
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays valid when the file is closed
    return np.frombuffer(mapped, np.float32).reshape(-1, num_channels).T


def iter_chunks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Views of at most CHUNK_SAMPLES along the last axis, at least one; pages already read are released."""
    for first in range(0, max(1, samples.shape[-1]), CHUNK_SAMPLES):
        yield samples[..., first : first + CHUNK_SAMPLES]
        release_pages(samples)


def zeros(num_channels: int, num_samples: int) -> Iterator[np.ndarray]:
    """Chunks (C, n) of zeros, `num_samples` in all."""
    for first in range(0, num_samples, CHUNK_SAMPLES):
        yield np.zeros((num_channels, min(CHUNK_SAMPLES, num_samples - first)), np.float32)


def peak(chunks: Iterable[np.ndarray]) -> float:
    """The largest magnitude; 0 without any sample."""
    return max(float(np.abs(chunk).max(initial=0.0)) for chunk in chunks)


def amplitude(chunks: Iterable[np.ndarray]) -> float:
    """Half the distance from the smallest to the largest sample of a channel, in chunks (C, n) of the loudest one."""
    pairs = [(chunk.max(axis=-1), chunk.min(axis=-1)) for chunk in chunks if chunk.size]
    if not pairs:
        return 0.0
    highest, lowest = zip(*pairs, strict=True)
    return float((np.max(highest, axis=0) - np.min(lowest, axis=0)).max() / 2)


def release_pages(samples: np.ndarray) -> None:
    """Free the memory of a mapped array's pages; they are read from the file again when needed."""
    while isinstance(samples.base, np.ndarray):
        samples = samples.base
    if isinstance(samples.base, memoryview) and isinstance(samples.base.obj, mmap.mmap):
        samples.base.obj.madvise(mmap.MADV_DONTNEED)
