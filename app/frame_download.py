"""Frames from the model's device to the host: each slice is copied while the next one is decoded.

F frames, H x W pixels, 3 colors.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from app.speakers import quantize_pixels


class Pixels(NamedTuple):
    """A slice on the host, uint8 F x H x W x 3, and whether the model's frames were free of NaN and Inf."""

    frames_FHWC: np.ndarray
    is_finite: bool


def download(slices: Iterable[torch.Tensor]) -> Iterator[Pixels]:
    """The pixels of each slice, 3 x F x H x W in [-1, 1], handed over when the next slice has been decoded."""
    buffers = itertools.cycle((HostBuffer(), HostBuffer()))
    pending: HostBuffer | None = None
    for frames_CFHW in slices:
        started = next(buffers)
        started.start(frames_CFHW)
        del frames_CFHW  # else it stays on the device while the next chunk is denoised
        if pending is not None:
            yield pending.wait()
        pending = started
    if pending is not None:
        yield pending.wait()


class HostBuffer:
    """A buffer on the host, page-locked for a GPU, that one slice after another is copied to."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._copied: torch.cuda.Event | None = None
        self._shape: tuple[int, ...] = ()

    def start(self, frames_CFHW: torch.Tensor) -> None:
        """Start the copy of a slice; on a GPU it runs after the kernels that compute the slice."""
        pixels = quantize_pixels(frames_CFHW)
        is_finite = torch.isfinite(frames_CFHW).all()[None].to(torch.uint8)
        self._shape, cuda = tuple(pixels.shape), pixels.is_cuda
        size = pixels.numel() + 1
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
        self._buffer[:size].copy_(torch.cat((is_finite, pixels.flatten())), non_blocking=True)
        self._copied = torch.cuda.current_stream(pixels.device).record_event() if cuda else None

    def wait(self) -> Pixels:
        """Wait for the copy. The result is a copy of its own: an encoder may read it after the next `start`."""
        if self._copied is not None:
            self._copied.synchronize()
        is_finite, *_ = self._buffer[:1].tolist()
        pixels = self._buffer[1 : 1 + int(np.prod(self._shape))].view(self._shape)
        return Pixels(pixels.numpy().copy(), bool(is_finite))
