"""What a result says of itself, so that it can be measured again."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"
LIBRARIES = ("diffusers", "transformers", "triton", "flash-attn", "flash-attn-3", "flash-attn-4", "sageattention")


def environment(module: str) -> dict[str, Any]:
    """Command, commit, date, machine and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
