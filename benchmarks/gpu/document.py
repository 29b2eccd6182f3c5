"""Run the stages and write their results, or errors, to a JSON document."""

import gc
import logging
import math
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.stages import ESTIMATED_SECONDS, QUICK_STAGES, STAGES
from benchmarks.report.environment import describe_device, environment, library_versions, write_result
from benchmarks.speed.timing import time_call
from wan.modules.attention import chosen_backends
from wan.modules.kernels.dispatch import is_enabled
from wan.modules.verify_kernels import verify

logger = logging.getLogger(__name__)


def run_stages(bench: Bench, stages: Iterable[str], path: Path, deadline: float = math.inf) -> dict[str, Any]:
    """Run stages in order and rewrite the document after each, so that an aborted run keeps its results.

    The error message of a failed stage is recorded in place of its results. A stage that would end after `deadline`,
    a time of `time.monotonic`, is skipped.
    """
    document = {
        **environment("benchmarks.gpu"),
        "model": bench.config.name,
        "device": describe_device(bench.device),
        "libraries": library_versions(),
        "peak_throughput": asdict(bench.peak),
        "repeats": bench.repeats,
        "stages": {},
    }
    verify(bench.device, getattr(torch, bench.config.dtype))
    for name in stages:
        logger.info("%s", name)
        left = deadline - time.monotonic()
        is_late = ESTIMATED_SECONDS.get(name, 0) > left
        document["stages"][name] = {"skipped": f"{left:.0f} s were left"} if is_late else run_stage(name, bench)
        document |= selected_backends(bench)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        write_result(path, document)
    return document


def selected_backends(bench: Bench) -> dict[str, Any]:
    """The attention backend of every kind of attention used so far, and the kernel backend."""
    with torch.inference_mode():
        triton = is_enabled(bench.device, getattr(torch, bench.config.dtype))
    backends = {f"{shape.kind}, {shape.width}, {shape.dtype}": name for shape, name in chosen_backends().items()}
    return {"attention": backends, "kernels": "triton" if triton else "eager"}


def run_stage(name: str, bench: Bench) -> dict[str, Any]:
    """Results of a stage and the seconds it took, or its error."""
    outcome: dict[str, Any] = {}

    def measure() -> None:
        with torch.inference_mode():
            outcome["results"] = (STAGES | QUICK_STAGES)[name](bench)

    try:
        outcome["stage_seconds"] = time_call(measure, bench.device)
    except Exception as error:  # noqa: BLE001 - the other stages are measured even if one fails
        logger.error("%s failed: %s", name, error)
        outcome = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    gc.collect()
    return outcome


def failures(document: dict[str, Any]) -> dict[str, str]:
    """Error messages of the failed stages."""
    return {name: stage["failed"] for name, stage in document["stages"].items() if "failed" in stage}
