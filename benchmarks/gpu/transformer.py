"""Stages `forward-...` and `profile`: the transformer with random weights, beside its roofline."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, format_size, weight_bytes
from benchmarks.gpu.memory import with_peak_memory
from benchmarks.gpu.networks import random_transformer
from benchmarks.gpu.spans import SpanRecorder, instrument, seconds_by_stage
from benchmarks.speed import roofline
from benchmarks.speed.forward import forward_call
from benchmarks.speed.timing import measure, synchronize
from wan.checkpoint import Precision
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

Rows = dict[str, Any]


def measure_forwards(
    bench: Bench, sizes: Sequence[VideoSize], precision: Precision = "bf16", num_persons: Sequence[int] = (1, 2)
) -> Rows:
    """Seconds and peak memory of a forward with each number of persons, at each size."""
    model = random_transformer(bench.config, bench.device, precision)
    model_bytes = weight_bytes([model])
    rows: Rows = {"weights_bytes": model_bytes}
    for size in sizes:
        for persons in num_persons:
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


def profile_kernels(bench: Bench) -> Rows:
    """The longest kernels of one block, by torch.profiler, at the main sizes with two persons, in bf16 and in fp8."""
    rows: Rows = {}
    one_block = replace(bench.config, transformer=replace(bench.config.transformer, num_layers=1))
    precisions: tuple[Precision, ...] = ("bf16", "fp8")
    for precision in precisions:
        model = random_transformer(one_block, bench.device, precision)
        for size in bench.main_sizes:
            call = forward_call(model, size, 2)
            seconds = measure(call, bench.device, bench.repeats).median_s
            rows[f"{format_size(size)}, {precision}"] = {"seconds": seconds, "kernels": longest_kernels(call)}
    return rows


def longest_kernels(call: Callable[[], Any], count: int = 30) -> dict[str, float]:
    """Seconds by kernel (by operator on a CPU) of one call, the longest first."""
    with torch.profiler.profile() as profiler:
        call()
    seconds = {
        each.key: (each.self_device_time_total or each.self_cpu_time_total) / 1e6 for each in profiler.key_averages()
    }
    return dict(sorted(seconds.items(), key=lambda item: -item[1])[:count])
