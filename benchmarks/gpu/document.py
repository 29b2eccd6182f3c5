"""What a run leaves: a JSON document of the machine and of every stage, complete or failed."""

import gc
import json
import logging
import subprocess
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.stages import STAGES
from benchmarks.provenance import provenance
from benchmarks.stopwatch import seconds_of
from wan.modules.attention import chosen_backends
from wan.modules.kernels.dispatch import usable

logger = logging.getLogger(__name__)

LIBRARIES = ("diffusers", "transformers", "triton", "flash-attn", "flash-attn-3", "flash-attn-4", "sageattention")


def run(bench: Bench, stages: Iterable[str], path: Path) -> dict[str, Any]:
    """Every stage in turn; the document is written anew after each, so that a run that is cut off leaves its part.

    A stage that fails is recorded with its message.
    """
    document = {
        **provenance("benchmarks.gpu"),
        "model": bench.config.name,
        "device": describe(bench.device),
        "libraries": versions(),
        "ceilings": asdict(bench.ceilings),
        "repeats": bench.repeats,
        "stages": {},
    }
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
        triton = usable(bench.device, getattr(torch, bench.config.dtype))
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


def describe(device: torch.device) -> dict[str, Any]:
    """The accelerator, its driver and what PyTorch was built for; of a processor only that it is one."""
    if device.type != "cuda":
        return {"name": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": list(torch.cuda.get_device_capability(device)),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **asked_of_driver(),
    }


def asked_of_driver() -> dict[str, str]:
    """Driver and limits, where nvidia-smi is there to tell."""
    fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return {"driver_version": f"unknown: {error}"}
    return dict(zip(fields, (each.strip() for each in told.split(",")), strict=True))


def versions() -> dict[str, str]:
    """Of the libraries that a figure may depend on, those that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
