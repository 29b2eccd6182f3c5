"""What is measured, stage by stage; each makes its networks anew and leaves nothing on the device."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.gpu.against_plain import measure_against_plain
from benchmarks.gpu.bench import Bench, label, weight_bytes
from benchmarks.gpu.clip import measure_clip
from benchmarks.gpu.loading import measure_loading
from benchmarks.gpu.memory import with_peak
from benchmarks.gpu.networks import draw_transformer
from benchmarks.gpu.timeline import Timeline, stages_of, watched
from benchmarks.gpu.vae import measure_vae
from benchmarks.speed import roofline
from benchmarks.speed.forward import forward_call
from benchmarks.speed.timing import measure, synchronize
from wan.checkpoint import Precision
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

Rows = dict[str, Any]


def forward(bench: Bench, sizes: list[VideoSize], precision: Precision = "bf16") -> Rows:
    """A forward with one and with two persons at each size, and the memory it takes."""
    model = draw_transformer(bench.config, bench.device, precision)
    held = weight_bytes([model])
    rows: Rows = {"weights_bytes": held}
    for size in sizes:
        for persons in (1, 2):
            call = forward_call(model, size, persons)
            _, peak = with_peak(call, bench.device, held)
            spread = measure(call, bench.device, bench.repeats, warm_ups=0)
            floor = roofline.forward_seconds(
                model.config, size, persons, bench.ceilings, held, eight_bits=precision == "fp8"
            )
            rows[f"{label(size)}, {persons} person(s)"] = {
                "tokens": roofline.tokens(size),
                **spread.over(floor),
                "flops": roofline.step_work(model.config, size, persons).flops,
                "peak_bytes": peak,
            }
    return rows


def block_profile(bench: Bench) -> Rows:
    """One block by stages, each with its floor, at the named sizes with two persons."""
    config = replace(bench.config, transformer=replace(bench.config.transformer, num_layers=1))
    model = draw_transformer(config, bench.device)
    return {label(size): profile(bench, model, size) for size in bench.named}


def profile(bench: Bench, model: MultiTalkTransformer, size: VideoSize) -> Rows:
    """Seconds of one block by stages, means over the repeats, and of the undisturbed block of the same run."""
    call, work = forward_call(model, size, 2), roofline.block_work(model.config, size, 2, model.dtype.itemsize)
    timeline, (block,) = Timeline(bench.device), list(model.blocks)
    call()
    with watched(block, timeline):
        for _ in range(bench.repeats):
            call()
    synchronize(bench.device)
    rows: Rows = {}
    for stage, seconds in sorted(stages_of(timeline).items(), key=lambda item: -item[1]):
        each = work.get(stage, roofline.Work())
        floor = roofline.seconds(each, bench.ceilings)
        rows[stage] = {
            "seconds": seconds / bench.repeats,
            "floor_s": floor,
            "flops": each.flops,
            "bytes": each.bytes,
        }
    whole = measure(call, bench.device, bench.repeats).median_s
    return {"stages": rows, "blocks": bench.config.transformer.num_layers, "forward_of_one_block_s": whole}


STAGES: dict[str, Callable[[Bench], Rows]] = {
    "profile": block_profile,
    "against-plain": measure_against_plain,
    "forward-named": lambda bench: forward(bench, list(bench.named)),
    "forward-480": lambda bench: forward(bench, bench.sizes("480")),
    "forward-720": lambda bench: forward(bench, bench.sizes("720")),
    "forward-fp8": lambda bench: forward(bench, list(bench.named), "fp8"),
    "vae": measure_vae,
    "clip": measure_clip,
    "load": measure_loading,
}
"""In this order; the two longest are the forwards at all sizes."""
