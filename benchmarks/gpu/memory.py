"""Peak memory of a call on a device, in bytes."""

from collections.abc import Callable
from typing import TypeVar

import torch

from wan.offload.estimate import PeakCounter

T = TypeVar("T")


def with_peak_memory(call: Callable[[], T], device: torch.device, weight_bytes: int = 0) -> tuple[T, int]:
    """The result of a call, and the peak of allocated bytes.

    On CUDA the peak is the caching allocator's. On a CPU it is that of tensors allocated during the call plus
    `weight_bytes`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return result, torch.cuda.max_memory_allocated(device)
    with PeakCounter(device) as counter:
        result = call()
    return result, weight_bytes + counter.peak
