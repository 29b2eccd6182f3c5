"""Where `generate` collects a video: in memory, or in an unnamed temporary file if it is long.

Shapes: C channels, F video frames, H x W.
"""

import logging
import mmap
import os
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MAX_IN_MEMORY = 2**30
"""Bytes up to which a video stays in memory: 222 frames of 448 x 896 in float32."""


def allocate_video(num_frames: int, height: int, width: int) -> tuple[Tensor, Callable[[], None]]:
    """An uninitialized video, float32 3 x F x H x W, and a function that frees the memory of what has been written.

    A file lies in the folder for temporary files, has no name, and is deleted with the tensor. Where the folder has not
    enough space, the video is kept in memory, and a warning is logged.
    """
    shape = (3, num_frames, height, width)
    num_bytes = 3 * num_frames * height * width * torch.float32.itemsize
    if num_bytes > MAX_IN_MEMORY:
        try:
            mapped = _map_file(num_bytes)
            return torch.frombuffer(mapped, dtype=torch.float32).view(shape), lambda: mapped.madvise(mmap.MADV_DONTNEED)
        except OSError as error:
            logger.warning(
                "a video of %d bytes is kept in memory: %s cannot hold it (%s)",
                num_bytes,
                tempfile.gettempdir(),
                error.strerror,
            )
    return torch.empty(shape), lambda: None


def _map_file(num_bytes: int) -> mmap.mmap:
    """A shared memory map of an unnamed file, whose space is reserved: a full disk would end the process on a write."""
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return mmap.mmap(file.fileno(), num_bytes)  # stays valid when the file is closed
