"""`python -m benchmarks.speed.cold_start`: seconds from the start of a process until the predictor is ready, by phase.

Each start is a new process. `--fresh-kernels` gives it empty caches of compiled kernels, as on a new machine. The model
and the folder of its weights come from the environment, as for the server. Written to
benchmarks/results/cold_start.json.
"""

import argparse
from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, number, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.speed.cold_start", __doc__)
    parser.add_argument("--repeats", type=whole_number(), default=3, help="number of processes")
    parser.add_argument("--fresh-kernels", action="store_true", help="start with empty kernel caches")
    parser.add_argument("--one", type=number(), metavar="TIME", help=argparse.SUPPRESS)
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "cold_start.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.speed.cold_start", make_parser)

import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.report.environment import describe_device, environment, write_result

KERNEL_CACHE_VARIABLES = (
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR",
    "CUDA_CACHE_PATH",
)
PHASES = {
    "fetch": (("weights", "ensure"),),
    "read": (("wan.multitalk", "load_models"), ("app.generator", "Wav2Vec2Model.from_pretrained")),
    "move": (("wan.offload.manager", "move"), ("app.generator", "Wav2Vec2Model.to")),
    "first run": (("app.generator", "VideoGenerator.warm_up"),),
}
"""Functions timed as each phase, as (module, attribute path); a call nested in another timed call is not counted."""


class PhaseTimer:
    """Accumulates seconds by phase, over the outermost timed calls."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._running = False

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to add its time to a phase."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if self._running:
                return function(*arguments, **named)
            self._running, start = True, time.monotonic()
            try:
                return function(*arguments, **named)
            finally:
                self._running = False
                self.seconds[phase] += time.monotonic() - start

        return call

    def patch(self, phase: str, module: str, path: str) -> Any:
        """A mock.patch context that times a function or method."""
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function = getattr(owner, name)
        timed = self.timed(phase, function)
        return mock.patch.object(owner, name, staticmethod(timed) if inspect.ismethod(function) else timed)


def measure_start(process_start: float) -> dict[str, float]:
    """Set up a predictor in this process, which started at `process_start` of the monotonic clock."""
    predictor = importlib.import_module("predict").Predictor()
    imported = time.monotonic()
    timer = PhaseTimer()
    with ExitStack() as stack:
        for phase, functions in PHASES.items():
            for module, path in functions:
                stack.enter_context(timer.patch(phase, module, path))
        predictor.setup()
    ready = time.monotonic()
    phases = {"imports": imported - process_start, **timer.seconds}
    total = ready - process_start
    return {**phases, "rest": total - sum(phases.values()), "total": total}


def measure_in_subprocess(fresh_kernels: bool) -> dict[str, float]:
    """Run `measure_start` in a new process; its stderr is passed through."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: str(Path(folder) / name.lower()) for name in KERNEL_CACHE_VARIABLES} if fresh_kernels else {}
        command = [sys.executable, "-m", "benchmarks.speed.cold_start", "--one", str(time.monotonic())]
        process = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True)
    seconds: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    if args.one is not None:
        sys.stdout.write(json.dumps(measure_start(args.one)) + "\n")
        return
    starts = [measure_in_subprocess(args.fresh_kernels) for _ in range(args.repeats)]
    seconds = {
        phase: {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}
        for phase in starts[0]
        for values in [[start[phase] for start in starts]]
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document = {
        **environment("benchmarks.speed.cold_start"),
        "model": os.environ.get("MULTITALK_MODEL", "multitalk-14B"),
        "device": describe_device(device),
        "fresh_kernels": args.fresh_kernels,
        "repeats": args.repeats,
        "seconds": seconds,
    }
    write_result(args.output, document)
    medians = (f"{phase.replace(' ', '_')}={values['median_s']:.2f}" for phase, values in seconds.items())
    sys.stdout.write(" ".join(medians) + "\n")
