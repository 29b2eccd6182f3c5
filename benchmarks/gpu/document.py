"""What a run leaves: a JSON document of the machine and of every stage, complete or failed."""

import gc
import json
import logging
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.stages import STAGES
from benchmarks.report.environment import describe, environment, versions
from benchmarks.speed.timing import seconds_of
from wan.modules.attention import chosen_backends
from wan.modules.kernels.dispatch import is_enabled
from wan.modules.verify_kernels import verify

logger = logging.getLogger(__name__)


def run(bench: Bench, stages: Iterable[str], path: Path) -> dict[str, Any]:
    """Every stage in turn; the document is written anew after each, so that a run that is cut off leaves its part.

    A stage that fails is recorded with its message.
    """
    document = {
        **environment("benchmarks.gpu"),
        "model": bench.config.name,
        "device": describe(bench.device),
        "libraries": versions(),
        "ceilings": asdict(bench.ceilings),
        "repeats": bench.repeats,
        "stages": {},
    }
    verify(bench.device, getattr(torch, bench.config.dtype))
    for name in stages:
        logger.info("%s", name)
        document["stages"][name] = outcome(name, bench)
        document |= chosen(bench)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")
    return document


def chosen(bench: Bench) -> dict[str, Any]:
    """What every figure depends on: the backend of each class of attention met so far, and the form of the kernels."""
    with torch.inference_mode():
        triton = is_enabled(bench.device, getattr(torch, bench.config.dtype))
    backends = {f"{each.kind}, {each.width}, {each.dtype}": name for each, name in chosen_backends().items()}
    return {"attention": backends, "kernels": "triton" if triton else "plain"}


def outcome(name: str, bench: Bench) -> dict[str, Any]:
    """What a stage measured, or why it could not; and how long that took."""
    found: dict[str, Any] = {}

    def attempt() -> None:
        with torch.inference_mode():
            found["results"] = STAGES[name](bench)

    try:
        found["stage_seconds"] = seconds_of(attempt, bench.device)
    except Exception as error:  # noqa: BLE001 - whatever one stage meets, the others are to be measured
        logger.error("%s failed: %s", name, error)
        found = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    gc.collect()
    return found


def failures(document: dict[str, Any]) -> dict[str, str]:
    """Messages of the stages that failed."""
    return {name: stage["failed"] for name, stage in document["stages"].items() if "failed" in stage}
