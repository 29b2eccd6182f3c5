"""Stages of the GPU benchmark. Each creates its own networks and leaves nothing on the device.

A stage is imported when it runs: on a bare machine the packages of some are not installed, and the others still run.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from wan.checkpoint import Precision

Rows = dict[str, Any]
Stage = Callable[[Bench], Rows]


def lazy(module: str, function: str) -> Stage:
    """The stage that is a function of a module of this package."""

    def run(bench: Bench) -> Rows:
        return getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(bench)

    return run


def forwards(size_class: str | None = None, precision: Precision = "bf16") -> Stage:
    """Forwards at all sizes of a class, or at the main sizes."""

    def run(bench: Bench) -> Rows:
        from benchmarks.gpu.transformer import measure_forwards

        sizes = list(bench.main_sizes) if size_class is None else bench.sizes(size_class)
        return measure_forwards(bench, sizes, precision)

    return run


def quick_forwards(bench: Bench) -> Rows:
    """One person at every main size, two at the first, and the first in fp8."""
    from benchmarks.gpu.transformer import measure_forwards

    first = bench.main_sizes[:1]
    rows = {"two persons": measure_forwards(bench, first, num_persons=(2,))}
    rows["one person"] = measure_forwards(bench, bench.main_sizes, num_persons=(1,))
    return rows | {"fp8": measure_forwards(bench, first, "fp8", num_persons=(1,))}


def run_gpu_tests(_: Bench) -> Rows:
    """The tests of the modules that need a GPU, where pytest is installed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "tests/wan/modules",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return {"status": done.returncode, "output": done.stdout[-2000:] + done.stderr[-2000:]}


STAGES: dict[str, Stage] = {
    "profile": lazy("transformer", "profile_block"),
    "against-eager": lazy("against_eager", "measure_against_eager"),
    "forward-main": forwards(),
    "forward-480": forwards("480"),
    "forward-720": forwards("720"),
    "forward-fp8": forwards(precision="fp8"),
    "vae": lazy("vae", "measure_vae"),
    "clip": lazy("clip", "measure_clip"),
    "load": lazy("loading", "measure_loading"),
}
"""In running order; the forwards at all sizes take longest."""

QUICK_STAGES: dict[str, Stage] = {
    "transfers": lazy("hardware", "measure_transfers"),
    "kernels": lazy("hardware", "measure_kernels"),
    "attention": lazy("hardware", "measure_attention"),
    "block": lazy("transformer", "profile_kernels"),
    "vae-first": lazy("vae", "measure_first_vae"),
    "forward-quick": quick_forwards,
    "streamed": lazy("streaming", "measure_streamed"),
    "stream": lazy("streaming", "measure_stream"),
    "tests": run_gpu_tests,
}
"""What to measure first, in running order: `--quick`."""

ESTIMATED_SECONDS = {
    "transfers": 10,
    "kernels": 60,
    "attention": 30,
    "block": 40,
    "vae-first": 60,
    "forward-quick": 90,
    "streamed": 60,
    "stream": 90,
    "tests": 60,
}
"""Of the 14B model on an H100: a stage that would exceed the budget is skipped."""

RENAMED_STAGES = {"against-plain": "against-eager", "forward-named": "forward-main"}
"""Former names that the command still accepts."""
