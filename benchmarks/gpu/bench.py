"""What a run measures: which model, where, at which sizes, how often."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.speed import roofline
from benchmarks.speed.peak_throughput import PeakThroughput, measure_peak_throughput
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig
from wan.offload.estimate import module_bytes
from wan.types import VideoSize

NAMED = ((448, 896), (720, 1280))
"""Height and width that goals are set for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """`named` are the sizes that are looked at closely; `load_bytes` is how much is written and read as weights."""

    config: ModelConfig
    device: torch.device
    named: tuple[VideoSize, ...]
    repeats: int
    ceilings: PeakThroughput
    load_bytes: int
    folder: Path | None = None

    def sizes(self, size_class: str) -> list[VideoSize]:
        """One size for every token count of a bucket table, the fewest tokens first."""
        by_count: dict[int, VideoSize] = {}
        for height, width in self.config.buckets[size_class].values():
            size = VideoSize(frames=self.config.frame_num, height=height, width=width)
            by_count.setdefault(roofline.tokens(size), size)
        return [size for _, size in sorted(by_count.items())]


def large(device: torch.device, repeats: int, folder: Path | None) -> Bench:
    """The published 14B network."""
    config = WAN_CONFIGS["multitalk-14B"]
    return Bench(
        config=config,
        device=device,
        named=tuple(VideoSize(frames=config.frame_num, height=height, width=width) for height, width in NAMED),
        repeats=repeats,
        ceilings=measure_peak_throughput(device, getattr(torch, config.dtype)),
        load_bytes=8 * 2**30,
        folder=folder,
    )


def tiny(device: torch.device) -> Bench:
    """The same stages on the small network, five frames, two blocks: to see on a processor that they run."""
    config = WAN_CONFIGS["multitalk-puppet"]
    config = replace(
        config,
        transformer=replace(config.transformer, num_layers=2),
        buckets={"480": {"0.50": (32, 64), "2.00": (64, 32)}, "720": {"1.00": (64, 64)}},
        frame_num=5,
        motion_frame=1,
    )
    return Bench(
        config=config,
        device=device,
        named=(VideoSize(frames=5, height=32, width=64),),
        repeats=2,
        ceilings=measure_peak_throughput(device, getattr(torch, config.dtype), side=128),
        load_bytes=2**20,
    )


def label(size: VideoSize) -> str:
    """A size as it is written in results."""
    return f"{size.height} x {size.width} x {size.frames}"


def weight_bytes(networks: Iterable[torch.nn.Module]) -> int:
    """All of them."""
    return sum(map(module_bytes, networks))
