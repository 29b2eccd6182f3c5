"""Stages `streamed` and `stream` of the quick run: a forward with streamed blocks, and a clip without files."""

import resource
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.bench import Bench, format_size
from benchmarks.gpu.networks import random_models, random_transformer
from benchmarks.speed.forward import forward_call
from benchmarks.speed.timing import measure, synchronize
from wan.checkpoint import Precision
from wan.conditioning.request import Request
from wan.multitalk import MultiTalkPipeline
from wan.offload.streaming import StreamedBlocks
from wan.progress import Progress
from wan.sampling.options import resolve_options

Rows = dict[str, Any]
STEPS = 4
SMALL_CARD = 22 * 10**9


def measure_streamed(bench: Bench) -> Rows:
    """A forward with all blocks resident, and with none: seconds, and the growth of the process in host memory."""
    model, size = random_transformer(bench.config, bench.device), bench.main_sizes[0]
    resident = measure(forward_call(model, size, 1), bench.device, bench.repeats)
    before = host_peak()
    model.blocks = StreamedBlocks(model.blocks, 0, bench.device)
    streamed = measure(forward_call(model, size, 1), bench.device, bench.repeats)
    return {
        "size": format_size(size),
        "resident_s": resident.median_s,
        "streamed_s": streamed.median_s,
        "host_bytes": host_peak() - before,
    }


def host_peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_stream(bench: Bench) -> Rows:
    """Two chunks with two persons: with all memory, on a small card, and on a small card in fp8."""
    rows: Rows = {}
    cases: tuple[tuple[str, Precision, bool], ...] = (("all memory", "bf16", False), ("small card, fp8", "fp8", True))
    for name, precision, small in cases:
        rows[name] = stream_clip(bench, precision, SMALL_CARD if small and bench.device.type == "cuda" else None)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def stream_clip(bench: Bench, precision: Precision, memory_limit: int | None) -> Rows:
    """Seconds and peak memory by stage and chunk, beside the peak that the plan predicts."""
    config, device = bench.config, bench.device
    models = random_models(config, device, precision)
    pipeline = MultiTalkPipeline.from_models(config, models, memory_limit, device=device)
    clock = StageClock(device)
    speech = torch.zeros(config.frame_num + 1, config.transformer.audio_layers, config.transformer.audio_dim)
    size = bench.main_sizes[0]
    image = Image.fromarray(np.zeros((size.height, size.width, 3), np.uint8))
    options = resolve_options(
        config,
        size_class="480",
        turbo=True,
        preset_name="fast",
        sampling_steps=STEPS,
        seed=1,
        max_frames_num=len(speech),
        frame_num=config.frame_num,
        motion_frame=config.motion_frame,
    )
    request = Request(image=image, speech=(speech, speech), prompt="two people talk")
    frames = sum(each.shape[1] for each in pipeline.stream(request, options, clock))
    return {
        "frames": frames,
        "plan": str(pipeline.offload.plan),
        "predicted_bytes": pipeline.offload.plan.peak,
        "seconds": clock.seconds,
        "peak_bytes": clock.peaks,
    }


class StageClock:
    """Progress callback that records seconds and peak memory of every stage of every chunk."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self._start()

    def _start(self) -> None:
        synchronize(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._began = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        stage = f"{progress.stage} {progress.chunk}"
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - self._began
        if self.device.type == "cuda":
            self.peaks[stage] = max(self.peaks.get(stage, 0), torch.cuda.max_memory_allocated(self.device))
        self._start()
