"""`python -m benchmarks.speed.bench`: what this processor makes of the small model, beside the plain form, in one run.

Whole denoising steps, one optimisation after the other; one block of the 14B network at few tokens; a whole clip; and
threads and dtypes, which the defaults follow. Every figure has its floor: the operations it needs, at the rate
of a large product measured in the same run. The result is JSON in `benchmarks/results/`; the last line is
`plain_over_ours=<ratio>`, of a step as the preset `fast` takes it.
"""

import argparse
import copy
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline.eager_clip import in_plain_form
from benchmarks.baseline.puppet import Puppet, Taken
from benchmarks.quality import clips
from benchmarks.report import performance
from benchmarks.report.environment import RESULTS, environment
from benchmarks.speed import ablation
from benchmarks.speed.peak_throughput import PeakThroughput, measure_peak_throughput
from benchmarks.speed.roofline import seconds, step_work, tokens, total
from benchmarks.speed.timing import measure_in_turn
from wan.checkpoint.components import is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
SCALES = {"fast": (1.0, 1.0), "turbo": (2.0, 2.0), "quality": (3.0, 2.0)}
"""Of text and of speech, by preset: one pass, since the LoRA has the guidance in it, two, and three."""
HEADLINE = "fast"
LARGE = "block of the 14B network"
SMALL = VideoSize(frames=33, height=64, width=128)
LARGE_SIZES = {VideoSize(frames=5, height=128, width=128): "all", VideoSize(frames=9, height=128, width=256): "ends"}
"""Of the 14B block: 128 tokens on every rung, and 384 on the first and the last."""
CLIP = replace(next(row for row in clips.ROWS if row.name == "two add"), name="clip", chunks=3)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="no 14B block and no clip: for a look")
    parser.add_argument("--output", type=Path, default=RESULTS / "bench.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    document = run(given.repeats, given.tiny)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({**environment("benchmarks.speed.bench"), **document}, indent=2) + "\n")
    if given.output == RESULTS / "bench.json":
        performance.write()
    for line in lines(document):
        logger.info("%s", line)
    sys.stdout.write(f"plain_over_ours={document['plain_over_ours']:.2f}\n")
    return 0


@torch.inference_mode()
def run(repeats: int, tiny: bool) -> dict[str, Any]:
    """The whole document."""
    ceilings = measure_peak_throughput(CPU, torch.float32)
    config = WAN_CONFIGS["multitalk-puppet"].transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiTalkTransformer(config).eval()
    document: dict[str, Any] = {
        "ceilings": {"product_gflops": ceilings.product / 1e9, "copy_gb_s": ceilings.copy / 1e9},
        "steps": {name: steps(model, SMALL, scales, ceilings, repeats) for name, scales in SCALES.items()},
        "choices": choices(model, repeats),
    }
    if not tiny:
        document |= {LARGE: large_block(repeats), "clip": clip()}
    ratio = {name: rows[0]["median_s"] / rows[-1]["median_s"] for name, rows in document["steps"].items()}
    return document | {"ratios": ratio, "plain_over_ours": ratio[HEADLINE]}


def steps(
    model: MultiTalkTransformer,
    size: VideoSize,
    scales: tuple[float, float],
    ceilings: PeakThroughput,
    repeats: int,
    ends: bool = False,
) -> list[dict[str, Any]]:
    """A row for every rung of the ladder, or its ends: seconds, and how far the result is from the plain form's."""
    rungs = ablation.rungs(model, ablation.draw_clip(model.config, size, persons=2), scales)
    if ends:
        rungs = {name: rungs[name] for name in (next(iter(rungs)), ablation.OURS)}
    plain = next(iter(rungs.values()))()
    found = measure_in_turn(rungs, CPU, repeats)
    floor = floor_of(model.config, size, scales, ceilings)
    return [
        {"what": name, **found[name].over(floor), "difference": ablation.difference(step(), plain)}
        for name, step in rungs.items()
    ]


def floor_of(
    config: TransformerConfig, size: VideoSize, scales: tuple[float, float], ceilings: PeakThroughput
) -> float:
    """Of the passes that a step needs, without what is constant in a clip."""
    passes = ablation.guider_of(*scales, plain=False).passes
    work = [step_work(config, size, 2 if ablation.PASSES[name].speech else 1) for name in passes]
    return seconds(replace(total(work), bytes=0.0), ceilings)


def choices(model: MultiTalkTransformer, repeats: int) -> list[dict[str, Any]]:
    """Our step of quality by threads and dtype."""
    half = copy.deepcopy(model)
    for name, parameter in half.named_parameters():
        if not is_fp32_param(name):
            parameter.data = parameter.data.bfloat16()
    clip = ablation.draw_clip(model.config, SMALL, persons=2)
    guider = ablation.guider_of(*SCALES["quality"], plain=False)
    networks = {"float32": model, "bfloat16": half}
    calls = {
        (dtype, threads): _threaded(ablation.our_step(network, clip, guider), threads)
        for dtype, network in networks.items()
        for threads in sorted({1, torch.get_num_threads()})
    }
    exact = calls["float32", 1]()
    found = measure_in_turn(calls, CPU, repeats)
    return [
        {
            "dtype": dtype,
            "threads": threads,
            "median_s": spread.median_s,
            "difference": ablation.difference(calls[dtype, threads](), exact),
        }
        for (dtype, threads), spread in found.items()
    ]


def _threaded(step: ablation.Step, threads: int) -> ablation.Step:
    def call() -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return step()
        finally:
            torch.set_num_threads(before)

    return call


def large_block(repeats: int) -> list[dict[str, Any]]:
    """One block of the 14B network in bfloat16 with two persons, as a step of quality."""
    config = replace(WAN_CONFIGS["multitalk-14B"].transformer, num_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiTalkTransformer(config).eval()
    for name, parameter in model.named_parameters():
        if not is_fp32_param(name):
            parameter.data = parameter.data.bfloat16()
    ceilings = measure_peak_throughput(CPU, torch.bfloat16)
    return [
        {"tokens": tokens(size), **row}
        for size, which in LARGE_SIZES.items()
        for row in steps(model, size, SCALES["quality"], ceilings, max(2, repeats // 4), which == "ends")
    ]


def clip(rounds: int = 2) -> dict[str, Any]:
    """A clip of two persons in three chunks, from their sound on: medians of both forms, taken in turn."""
    puppet = Puppet()
    puppet.use_lora_of("fast")
    drawn, options = clips.draw_clip(CLIP, 1, 0), puppet.options("fast")

    def plainly() -> Taken:
        with in_plain_form(puppet.pipeline):
            return puppet.take(drawn, options)

    calls = {"ours": lambda: puppet.take(drawn, options), "plain": plainly}
    found = measure_in_turn(calls, CPU, rounds)
    apart = calls["ours"]().frames.astype(int) - calls["plain"]().frames
    return {
        "frames": CLIP.frames,
        "ours_s": found["ours"].median_s,
        "plain_s": found["plain"].median_s,
        "plain_over_ours": found["plain"].median_s / found["ours"].median_s,
        "largest_difference_of_255": int(abs(apart).max()),
    }


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The document for the eye."""
    for name, rows in document["steps"].items():
        yield f"a step, {name}"
        yield from (f"{_line(row)}  {row['what']}" for row in rows)
    yield from (f"{_line(row)}  14B block, {row['tokens']} tokens: {row['what']}" for row in document.get(LARGE, []))
    for row in document["choices"]:
        yield f"{row['median_s'] * 1e3:8.1f} ms  {row['dtype']}, {row['threads']} threads, {row['difference']:.0e} off"
    if "clip" in document:
        yield "a clip of {frames} frames: {ours_s:.2f} s, plainly {plain_s:.2f} s".format(**document["clip"])
    yield from (f"{ratio:.2f} times as fast as the plain form: {name}" for name, ratio in document["ratios"].items())


def _line(row: dict[str, Any]) -> str:
    return f"{row['median_s'] * 1e3:8.1f} ms  {row['over_floor']:4.1f} x floor  {row['difference']:.0e} off"


if __name__ == "__main__":
    sys.exit(main())
