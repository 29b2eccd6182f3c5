"""`python -m benchmarks.speed.bench`: seconds on this CPU, optimized beside the eager baseline, in one run.

Measures whole denoising steps of the built-in model as an ablation of the optimizations; one block of the 14B
transformer at few tokens; a whole clip; and dtypes and numbers of threads, from which the defaults were chosen. Every
time is reported beside its roofline bound, at the rate of a large matrix product measured in the same run. Written to
benchmarks/results/bench.json and docs/performance.md; the last line is `plain_over_ours=<ratio>`, the time of the eager
baseline divided by that of the optimized model, for a step of the preset `fast`.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.speed.bench", __doc__)
    parser.add_argument("--repeats", type=whole_number(), default=10, help="measurements of each step")
    parser.add_argument("--tiny", action="store_true", help="smoke test: only the preset fast, no 14B block, no clip")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "bench.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.speed.bench", make_parser)

import copy
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.baseline.eager_clip import eager_baseline
from benchmarks.baseline.puppet import GeneratedClip, Puppet
from benchmarks.quality import clips
from benchmarks.report import performance
from benchmarks.report.environment import environment, write_result
from benchmarks.speed import ablation
from benchmarks.speed.peak_throughput import PeakThroughput, measure_peak_throughput
from benchmarks.speed.roofline import min_seconds, num_tokens, step_work, total_work
from benchmarks.speed.timing import measure_interleaved
from wan.checkpoint.components import is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules.transformer import MultiTalkTransformer
from wan.sampling.guidance import PASSES
from wan.types import VideoSize

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
GUIDANCE_SCALES = {"fast": (1.0, 1.0), "turbo": (2.0, 2.0), "quality": (3.0, 2.0)}
"""Text and speech guidance by preset: one pass (the LoRA is distilled with guidance), two passes, three passes."""
HEADLINE = "fast"
BLOCK_14B = "block of the 14B network"
SMALL = VideoSize(frames=33, height=64, width=128)
BLOCK_SIZES = {VideoSize(frames=5, height=128, width=128): "all", VideoSize(frames=9, height=128, width=256): "ends"}
"""Sizes for the 14B block: 128 tokens with every variant, 384 tokens with the first and the last variant."""
CLIP = replace(next(row for row in clips.ROWS if row.name == "two add"), name="clip", num_chunks=3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    document = run(args.repeats, args.tiny)
    write_result(args.output, {**environment("benchmarks.speed.bench"), **document})
    if args.output == RESULTS / "bench.json" and not args.tiny:
        performance.write()
    for line in format_lines(document):
        logger.info("%s", line)
    sys.stdout.write(f"plain_over_ours={document['plain_over_ours']:.2f}\n")
    return 0


@torch.inference_mode()
def run(repeats: int, tiny: bool) -> dict[str, Any]:
    """Measure everything; returns the JSON document without its environment."""
    peak = measure_peak_throughput(CPU, torch.float32)
    model = _random_model(WAN_CONFIGS["multitalk-puppet"].transformer)
    presets = {HEADLINE: GUIDANCE_SCALES[HEADLINE]} if tiny else GUIDANCE_SCALES
    document: dict[str, Any] = {
        "peak_throughput": {"matmul_gflops": peak.matmul / 1e9, "copy_gb_s": peak.copy / 1e9},
        "steps": {name: measure_steps(model, SMALL, scales, peak, repeats) for name, scales in presets.items()},
        "dtype_and_threads": measure_dtype_and_threads(model, repeats),
    }
    if not tiny:
        document |= {BLOCK_14B: measure_14b_block(repeats), "clip": measure_clip()}
    ratios = {name: rows[0]["median_s"] / rows[-1]["median_s"] for name, rows in document["steps"].items()}
    return document | {"ratios": ratios, "plain_over_ours": ratios[HEADLINE]}


def measure_steps(
    model: MultiTalkTransformer,
    size: VideoSize,
    scales: tuple[float, float],
    peak: PeakThroughput,
    repeats: int,
    ends: bool = False,
) -> list[dict[str, Any]]:
    """A row for every variant (with `ends` the first and last only): seconds, and relative error to the baseline."""
    steps = ablation.ablation_steps(model, ablation.draw_inputs(model.config, size, persons=2), scales)
    if ends:
        steps = {name: steps[name] for name in (ablation.EAGER, ablation.OPTIMIZED)}
    reference = steps[ablation.EAGER]()
    times = measure_interleaved(steps, CPU, repeats)
    roofline_s = step_roofline(model.config, size, scales, peak)
    return [
        {
            "variant": name,
            **times[name].with_roofline(roofline_s),
            "relative_error": ablation.relative_error(step(), reference),
        }
        for name, step in steps.items()
    ]


def step_roofline(
    config: TransformerConfig, size: VideoSize, scales: tuple[float, float], peak: PeakThroughput
) -> float:
    """Compute-bound minimum seconds of the required guidance passes of a step, without per-clip constants."""
    passes = ablation.make_guider(*scales, eager=False).passes
    works = [step_work(config, size, 2 if PASSES[name].speech else 1) for name in passes]
    return min_seconds(replace(total_work(works), bytes=0.0), peak)


def measure_dtype_and_threads(model: MultiTalkTransformer, repeats: int) -> list[dict[str, Any]]:
    """The optimized step of the preset `quality` by dtype and number of threads."""
    inputs = ablation.draw_inputs(model.config, SMALL, persons=2)
    guider = ablation.make_guider(*GUIDANCE_SCALES["quality"], eager=False)
    models = {"float32": model, "bfloat16": _to_bfloat16(copy.deepcopy(model))}
    calls = {
        (dtype, threads): _with_threads(ablation.optimized_step(network, inputs, guider), threads)
        for dtype, network in models.items()
        for threads in sorted({1, torch.get_num_threads()})
    }
    reference = calls["float32", 1]()
    times = measure_interleaved(calls, CPU, repeats)
    return [
        {
            "dtype": dtype,
            "threads": threads,
            "median_s": stats.median_s,
            "relative_error": ablation.relative_error(calls[dtype, threads](), reference),
        }
        for (dtype, threads), stats in times.items()
    ]


def _with_threads(step: ablation.Step, threads: int) -> ablation.Step:
    def call() -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return step()
        finally:
            torch.set_num_threads(before)

    return call


def _random_model(config: TransformerConfig) -> MultiTalkTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiTalkTransformer(config).eval()


def _to_bfloat16(model: MultiTalkTransformer) -> MultiTalkTransformer:
    """Cast parameters in place, except those that stay in float32."""
    for name, parameter in model.named_parameters():
        if not is_fp32_param(name):
            parameter.data = parameter.data.bfloat16()
    return model


def measure_14b_block(repeats: int) -> list[dict[str, Any]]:
    """One block of the 14B transformer in bfloat16, two persons, guidance of the preset `quality`."""
    model = _to_bfloat16(_random_model(replace(WAN_CONFIGS["multitalk-14B"].transformer, num_layers=1)))
    peak = measure_peak_throughput(CPU, torch.bfloat16)
    return [
        {"tokens": num_tokens(size), **row}
        for size, variants in BLOCK_SIZES.items()
        for row in measure_steps(
            model, size, GUIDANCE_SCALES["quality"], peak, max(2, repeats // 4), variants == "ends"
        )
    ]


def measure_clip(repeats: int = 2) -> dict[str, Any]:
    """A clip of two persons in three chunks, audio to frames, optimized and eager interleaved: median seconds."""
    puppet = Puppet()
    puppet.set_preset_lora("fast")
    clip, options = clips.draw_clip(CLIP, 1, 0), puppet.options("fast")

    def generate_eagerly() -> GeneratedClip:
        with eager_baseline(puppet.pipeline):
            return puppet.generate(clip, options)

    calls = {"optimized": lambda: puppet.generate(clip, options), "eager": generate_eagerly}
    times = measure_interleaved(calls, CPU, repeats)
    difference = calls["optimized"]().frames.astype(int) - calls["eager"]().frames
    return {
        "frames": CLIP.num_frames,
        "optimized_s": times["optimized"].median_s,
        "eager_s": times["eager"].median_s,
        "plain_over_ours": times["eager"].median_s / times["optimized"].median_s,
        "max_pixel_difference": int(abs(difference).max()),
    }


def format_lines(document: dict[str, Any]) -> Iterator[str]:
    """The document as text for a terminal."""
    for name, rows in document["steps"].items():
        yield f"denoising step, {name}"
        yield from (f"{_format_row(row)}  {row['variant']}" for row in rows)
    for row in document.get(BLOCK_14B, []):
        yield f"{_format_row(row)}  14B block, {row['tokens']} tokens: {row['variant']}"
    for row in document["dtype_and_threads"]:
        time = f"{row['median_s'] * 1e3:8.1f} ms"
        yield f"{time}  {row['dtype']}, {row['threads']} threads, relative error {row['relative_error']:.0e}"
    if "clip" in document:
        yield "clip of {frames} frames: optimized {optimized_s:.2f} s, eager {eager_s:.2f} s".format(**document["clip"])
    yield from (
        f"{ratio:.2f} times as fast as the eager baseline: {name}" for name, ratio in document["ratios"].items()
    )


def _format_row(row: dict[str, Any]) -> str:
    time = f"{row['median_s'] * 1e3:8.1f} ms  {row['over_roofline']:4.1f} x roofline"
    return f"{time}  relative error {row['relative_error']:.0e}"
