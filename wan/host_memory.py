"""Host memory that is copied to a GPU: anonymous mappings with huge pages, page-locked in place; and the copies.

PyTorch's pinned allocator rounds a buffer up to a power of two and keeps it when it is freed: 40 blocks of 0.93 GB
would lock 43 GB instead of 37, and as much again after the next change of plan.
"""

import logging
import mmap
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ALIGNMENT = 256
"""Bytes; every tensor in a region starts at a multiple, which is valid for any dtype and fast on a GPU."""


def align(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def allocate_region(size: int) -> Tensor:
    """A flat uint8 tensor of whole pages, uninitialized; its pages are freed together with its last view.

    Huge pages, because faulting in fresh memory in pages of 4 KB takes longer than reading a file
    (benchmarks/results/load.json).
    """
    size = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.uint8)


def common_region(tensors: Sequence[Tensor]) -> Tensor | None:
    """The region that holds all these tensors; None where they are on a GPU or in several storages."""
    storages = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
    first = next(iter(storages.values()), None)
    if first is None or len(storages) > 1 or first.device.type != "cpu":
        return None
    storage = first.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage) if storage.nbytes() % mmap.PAGESIZE == 0 else None


class PageLock:
    """Page-locks a region for asynchronous copies for as long as this object lives.

    Where the system refuses, a warning is logged and the copies are slower.
    """

    def __init__(self, region: Tensor) -> None:
        self._region = region  # freed after the lock has ended
        address = region.data_ptr()
        status = int(cudart().cudaHostRegister(address, region.nbytes, 0))
        if status == 0:
            weakref.finalize(self, unlock, address).atexit = False  # a process that ends gives its memory back anyway
            return
        logger.warning("%d bytes of host memory cannot be page-locked (CUDA error %d)", region.nbytes, status)
        with suppress(RuntimeError):  # the next launch would report the error once more
            torch.zeros(1, device="cuda")


def unlock(address: int) -> None:
    """End the page lock of the region at an address."""
    cudart().cudaHostUnregister(address)


def cudart() -> Any:
    """The CUDA runtime."""
    return torch.cuda.cudart()


class HostTensor:
    """An uninitialized `tensor` on the host with the shape, strides and dtype of another; page-locked for a GPU."""

    def __init__(self, like: Tensor, page_lock: bool) -> None:
        region = allocate_region(like.nbytes)
        self.tensor = region[: like.nbytes].view(like.dtype).as_strided(like.shape, like.stride())
        self._page_lock = PageLock(region) if page_lock else None


class CopyStream:
    """Copies between a GPU and page-locked memory beside the kernels; at once on other devices."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, target: Tensor, source: Tensor) -> "torch.cuda.Event | None":
        """Start a copy, after all kernels so far. Both tensors must live until `wait` for the returned event.

        `record_stream` would delay reuse of the memory on the device and make the allocator take more.
        """
        if self.stream is None:
            target.copy_(source)
            return None
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            return self.stream.record_event()

    def wait(self, copied: "torch.cuda.Event | None") -> None:
        """Let kernels on the current stream wait for a copy."""
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def wait_for_all(self) -> None:
        """Let kernels on the current stream wait for all copies."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def synchronize(self) -> None:
        """Wait until all copies are done."""
        if self.stream is not None:
            self.stream.synchronize()
