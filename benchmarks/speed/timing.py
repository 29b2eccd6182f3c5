"""Seconds of a piece of work on a device, again and again."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What several measurements of one thing gave, in seconds."""

    median_s: float
    min_s: float
    max_s: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        """Of at least one measurement."""
        return cls(median_s=statistics.median(seconds), min_s=min(seconds), max_s=max(seconds), repeats=len(seconds))

    def over(self, floor_s: float) -> dict[str, float]:
        """For a document: the figures, their floor, and how many times the floor the median is."""
        return {**asdict(self), "floor_s": floor_s, "over_floor": self.median_s / floor_s}


def synchronize(device: torch.device) -> None:
    """Wait for all that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds until the device has done the work."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def measure(call: Callable[[], Any], device: torch.device, repeats: int, warm_ups: int = 1) -> Spread:
    """`repeats` measurements, after calls that are not counted."""
    for _ in range(warm_ups):
        call()
    return Spread.of([seconds_of(call, device) for _ in range(repeats)])


def measure_in_turn(
    calls: Mapping[K, Callable[[], Any]], device: torch.device, repeats: int, warm_ups: int = 1
) -> dict[K, Spread]:
    """Several calls round after round, so that a disturbance meets all of them."""
    found: dict[K, list[float]] = {name: [] for name in calls}
    for repeat in range(warm_ups + repeats):
        for name, call in calls.items():
            taken = seconds_of(call, device)
            if repeat >= warm_ups:
                found[name].append(taken)
    return {name: Spread.of(seconds) for name, seconds in found.items()}
