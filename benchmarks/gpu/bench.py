"""Configuration of a GPU benchmark run: model, device, video sizes and repeats."""

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

MAIN_SIZES = ((448, 896), (720, 1280))
"""Height and width of the sizes that have performance goals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """`main_sizes` are profiled in detail; `load_bytes` is the size of the weight file for the stage `load`."""

    config: ModelConfig
    device: torch.device
    main_sizes: tuple[VideoSize, ...]
    repeats: int
    peak: PeakThroughput
    load_bytes: int
    folder: Path | None = None

    def sizes(self, size_class: str) -> list[VideoSize]:
        """One size for every token count of a bucket table, in ascending order."""
        by_tokens: dict[int, VideoSize] = {}
        for height, width in self.config.buckets[size_class].values():
            size = VideoSize(frames=self.config.frame_num, height=height, width=width)
            by_tokens.setdefault(roofline.num_tokens(size), size)
        return [size for _, size in sorted(by_tokens.items())]


def full_bench(device: torch.device, repeats: int, folder: Path | None) -> Bench:
    """The published 14B model."""
    config = WAN_CONFIGS["multitalk-14B"]
    return Bench(
        config=config,
        device=device,
        main_sizes=tuple(
            VideoSize(frames=config.frame_num, height=height, width=width) for height, width in MAIN_SIZES
        ),
        repeats=repeats,
        peak=measure_peak_throughput(device, getattr(torch, config.dtype)),
        load_bytes=8 * 2**30,
        folder=folder,
    )


def tiny_bench(device: torch.device) -> Bench:
    """A smoke test of the same stages: small network, two blocks, five frames."""
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
        main_sizes=(VideoSize(frames=5, height=32, width=64),),
        repeats=2,
        peak=measure_peak_throughput(device, getattr(torch, config.dtype), side=128),
        load_bytes=2**20,
    )


def format_size(size: VideoSize) -> str:
    """A size as a key of results: height x width x frames."""
    return f"{size.height} x {size.width} x {size.frames}"


def weight_bytes(modules: Iterable[torch.nn.Module]) -> int:
    """Bytes of all parameters and buffers."""
    return sum(map(module_bytes, modules))
