"""Stages of the GPU benchmark. Each creates its own networks and leaves nothing on the device."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.gpu.against_eager import measure_against_eager
from benchmarks.gpu.bench import Bench, format_size, weight_bytes
from benchmarks.gpu.clip import measure_clip
from benchmarks.gpu.loading import measure_loading
from benchmarks.gpu.memory import with_peak_memory
from benchmarks.gpu.networks import random_transformer
from benchmarks.gpu.spans import SpanRecorder, instrument, seconds_by_stage
from benchmarks.gpu.vae import measure_vae
from benchmarks.speed import roofline
from benchmarks.speed.forward import forward_call
from benchmarks.speed.timing import measure, synchronize
from wan.checkpoint import Precision
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

Rows = dict[str, Any]


def measure_forwards(bench: Bench, sizes: list[VideoSize], precision: Precision = "bf16") -> Rows:
    """Seconds and peak memory of a forward with one and with two persons, at each size."""
    model = random_transformer(bench.config, bench.device, precision)
    model_bytes = weight_bytes([model])
    rows: Rows = {"weights_bytes": model_bytes}
    for size in sizes:
        for persons in (1, 2):
            call = forward_call(model, size, persons)
            _, peak = with_peak_memory(call, bench.device, model_bytes)
            stats = measure(call, bench.device, bench.repeats, warm_ups=0)
            roofline_s = roofline.min_forward_seconds(
                model.config, size, persons, bench.peak, model_bytes, fp8=precision == "fp8"
            )
            rows[f"{format_size(size)}, {persons} person(s)"] = {
                "tokens": roofline.num_tokens(size),
                **stats.with_roofline(roofline_s),
                "flops": roofline.step_work(model.config, size, persons).flops,
                "peak_bytes": peak,
            }
    return rows


def profile_block(bench: Bench) -> Rows:
    """One block by stage, each with its roofline, at the main sizes with two persons."""
    config = replace(bench.config, transformer=replace(bench.config.transformer, num_layers=1))
    model = random_transformer(config, bench.device)
    return {format_size(size): profile_size(bench, model, size) for size in bench.main_sizes}


def profile_size(bench: Bench, model: MultiTalkTransformer, size: VideoSize) -> Rows:
    """Mean seconds of one block by stage, and of the uninstrumented block in the same run."""
    call, works = forward_call(model, size, 2), roofline.block_work(model.config, size, 2, model.dtype.itemsize)
    recorder, (block,) = SpanRecorder(bench.device), list(model.blocks)
    call()
    with instrument(block, recorder):
        for _ in range(bench.repeats):
            call()
    synchronize(bench.device)
    rows: Rows = {}
    for stage, seconds in sorted(seconds_by_stage(recorder).items(), key=lambda item: -item[1]):
        work = works.get(stage, roofline.Work())
        rows[stage] = {
            "seconds": seconds / bench.repeats,
            "roofline_s": roofline.min_seconds(work, bench.peak),
            "flops": work.flops,
            "bytes": work.bytes,
        }
    forward_s = measure(call, bench.device, bench.repeats).median_s
    return {"stages": rows, "blocks": bench.config.transformer.num_layers, "forward_of_one_block_s": forward_s}


STAGES: dict[str, Callable[[Bench], Rows]] = {
    "profile": profile_block,
    "against-eager": measure_against_eager,
    "forward-main": lambda bench: measure_forwards(bench, list(bench.main_sizes)),
    "forward-480": lambda bench: measure_forwards(bench, bench.sizes("480")),
    "forward-720": lambda bench: measure_forwards(bench, bench.sizes("720")),
    "forward-fp8": lambda bench: measure_forwards(bench, list(bench.main_sizes), "fp8"),
    "vae": measure_vae,
    "clip": measure_clip,
    "load": measure_loading,
}
"""In running order; the forwards at all sizes take longest."""

RENAMED_STAGES = {"against-plain": "against-eager", "forward-named": "forward-main"}
"""Former names that the command still accepts."""
