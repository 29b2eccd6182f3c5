"""`python -m benchmarks.speed.cold_start`: seconds from the start of a process until the predictor is ready, by part.

Each start is a process of its own. `--fresh-kernels` gives it empty folders for compiled kernels, as on a machine where
nothing has ever run. The model and where its weights are come from the environment, as they do for the server. The
result is JSON in `benchmarks/results/`.
"""

import argparse
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

from benchmarks.report.environment import RESULTS, describe, environment

KERNEL_FOLDERS = (
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR",
    "CUDA_CACHE_PATH",
)
PARTS = {
    "fetch": (("weights", "ensure"),),
    "read": (("wan.multitalk", "load_models"), ("app.generator", "Wav2Vec2Model.from_pretrained")),
    "move": (("wan.offload.manager", "move"), ("app.generator", "Wav2Vec2Model.to")),
    "first run": (("app.generator", "VideoGenerator.warm_up"),),
}
"""Modules and what in them is the setup's work of a part; of a call inside another one, the outer one counts."""


class Parts:
    """Seconds by part, of calls that are not inside others that are counted."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._busy = False

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is the part's."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if self._busy:
                return function(*arguments, **named)
            self._busy, start = True, time.monotonic()
            try:
                return function(*arguments, **named)
            finally:
                self._busy = False
                self.seconds[part] += time.monotonic() - start

        return call

    def watch(self, part: str, module: str, path: str) -> Any:
        """A patch that counts a function or a method."""
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function = getattr(owner, name)
        bound = inspect.ismethod(function)
        counted = self.counted(part, function)
        return mock.patch.object(owner, name, staticmethod(counted) if bound else counted)


def start(began: float) -> dict[str, float]:
    """Make a predictor ready in this process, which began at `began` of the monotonic clock."""
    predictor = importlib.import_module("predict").Predictor()
    imported = time.monotonic()
    parts = Parts()
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for module, path in places:
                stack.enter_context(parts.watch(part, module, path))
        predictor.setup()
    ready = time.monotonic()
    found = {"imports": imported - began, **parts.seconds}
    return {**found, "rest": ready - began - sum(found.values()), "total": ready - began}


def in_a_process(fresh_kernels: bool) -> dict[str, float]:
    """The same in a process of its own, whose log is passed on."""
    with tempfile.TemporaryDirectory() as folder:
        empty = {name: str(Path(folder) / name.lower()) for name in KERNEL_FOLDERS} if fresh_kernels else {}
        command = [sys.executable, "-m", "benchmarks.speed.cold_start", "--one", str(time.monotonic())]
        done = subprocess.run(command, env=os.environ | empty, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.cold_start", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh-kernels", action="store_true")
    parser.add_argument("--one", type=float, metavar="BEGAN", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "cold_start.json")
    given = parser.parse_args()
    if given.one is not None:
        sys.stdout.write(json.dumps(start(given.one)) + "\n")
        return
    starts = [in_a_process(given.fresh_kernels) for _ in range(given.repeats)]
    seconds = {
        part: {"median_s": statistics.median(found), "min_s": min(found), "max_s": max(found)}
        for part in starts[0]
        for found in [[each[part] for each in starts]]
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document = {
        **environment("benchmarks.speed.cold_start"),
        "model": os.environ.get("MULTITALK_MODEL", "multitalk-14B"),
        "device": describe(device),
        "fresh_kernels": given.fresh_kernels,
        "repeats": given.repeats,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(document | {"seconds": seconds}, indent=2) + "\n")
    sys.stdout.write(
        " ".join(f"{part.replace(' ', '_')}={each['median_s']:.2f}" for part, each in seconds.items()) + "\n"
    )


if __name__ == "__main__":
    main()
