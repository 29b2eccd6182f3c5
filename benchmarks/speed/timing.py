"""Wall-clock timing of calls on a device, in seconds."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingStats:
    """Summary of repeated measurements of one call, in seconds."""

    median_s: float
    min_s: float
    max_s: float
    repeats: int

    @classmethod
    def from_seconds(cls, seconds: list[float]) -> "TimingStats":
        """Summarize at least one measurement."""
        return cls(median_s=statistics.median(seconds), min_s=min(seconds), max_s=max(seconds), repeats=len(seconds))

    def with_roofline(self, roofline_s: float) -> dict[str, float]:
        """The fields, the roofline bound in seconds, and the ratio of the median to it."""
        return {**asdict(self), "roofline_s": roofline_s, "over_roofline": self.median_s / roofline_s}


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on a CUDA device; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(call: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds of a call, including the work it queued on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def measure(call: Callable[[], Any], device: torch.device, repeats: int, warm_ups: int = 1) -> TimingStats:
    """Time a call `repeats` times after untimed warm-up calls."""
    for _ in range(warm_ups):
        call()
    return TimingStats.from_seconds([time_call(call, device) for _ in range(repeats)])


def measure_interleaved(
    calls: Mapping[K, Callable[[], Any]], device: torch.device, repeats: int, warm_ups: int = 1
) -> dict[K, TimingStats]:
    """Time several calls round-robin, so that disturbances of the machine affect all of them alike."""
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    for repeat in range(warm_ups + repeats):
        for name, call in calls.items():
            duration = time_call(call, device)
            if repeat >= warm_ups:
                seconds[name].append(duration)
    return {name: TimingStats.from_seconds(durations) for name, durations in seconds.items()}
