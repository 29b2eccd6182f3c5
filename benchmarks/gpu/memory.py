"""The most memory that some work took on a device."""

from collections.abc import Callable
from typing import TypeVar

import torch

from wan.offload.estimate import PeakCounter

T = TypeVar("T")


def with_peak(work: Callable[[], T], device: torch.device, held: int = 0) -> tuple[T, int]:
    """The work's result, and the most bytes there were at once.

    On a GPU its allocator tells. On a processor tensors are counted as they are made, on top of the bytes `held`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device)
    with PeakCounter(device) as counter:
        result = work()
    return result, held + counter.peak
