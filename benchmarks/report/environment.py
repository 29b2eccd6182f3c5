"""Environment of a measurement: command, commit, machine and library versions."""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

LIBRARIES = ("diffusers", "transformers", "triton", "flash-attn", "flash-attn-3", "flash-attn-4", "sageattention")


def environment(module: str) -> dict[str, Any]:
    """Command line of this process, commit, date, CPU and versions."""
    return {
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """The commit of the working folder; empty where git or its history is missing."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def write_result(path: Path, document: Mapping[str, Any]) -> None:
    """Write a result as JSON, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("wrote %s", path)


def cpu_name() -> str:
    """Model name of the CPU, or its architecture where the system does not report one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_device(device: torch.device) -> dict[str, Any]:
    """Properties of a CUDA device, its driver and the CUDA version of PyTorch; only the name of a CPU device."""
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
        **query_nvidia_smi(),
    }


def query_nvidia_smi() -> dict[str, str]:
    """Driver version, power limit and maximum clocks, if nvidia-smi can be run."""
    fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return {"driver_version": f"unknown: {error}"}
    return dict(zip(fields, (value.strip() for value in output.split(",")), strict=True))


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that may affect a measurement."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
