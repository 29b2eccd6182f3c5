"""`python -m benchmarks.speed.load`: seconds to read a transformer's files, beside a plain read of the same bytes.

Random weights are written in the published form (float32) and in our converted one (bfloat16). Every way of reading
ends with tensors in memory of their own, in bfloat16; every measurement has a process of its own, since a second one
would find the memory of the first ready for use. Ways take turns within a round, with a warm page cache and with one
that was dropped.

What "within 1.5 times the plain read" means: the plain read takes every byte once, in one thread, into memory that
stays, since that is what weights are for. There are two such reads, `read_bytes` into ordinary pages and one into huge
pages, which ours asks for; which is faster depends on how much of the memory is in pieces, and the faster one counts.
The ratio is of medians of the same run, for both forms and both caches, and the command ends with status 1 when one of
the four is above the limit. A read into one small buffer, which keeps nothing and stays in the processor's cache, is
shown beside it; no loader can be held to that. Streaming loaders are measured if they are installed.
"""

import argparse
import importlib
import json
import logging
import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.report.environment import RESULTS, environment
from training.random_weights import write_model
from wan.checkpoint.component import load_component, plan_loading
from wan.checkpoint.components import transformer_component
from wan.checkpoint.convert import convert
from wan.checkpoint.layout import find_layout
from wan.checkpoint.loading import load_tensors
from wan.configs import WAN_CONFIGS, ModelConfig

logger = logging.getLogger(__name__)

LIMIT, GOAL = 1.5, 1.3
PLAIN, OURS = ("read_bytes", "plain read into huge pages"), "ours: module"
BUFFER = 16 * 2**20
CPU = torch.device("cpu")
Way = Callable[[], Any]


def scaled(layers: int) -> ModelConfig:
    """A transformer of about 23 million parameters a block; the other networks stay small."""
    puppet = WAN_CONFIGS["multitalk-puppet"]
    sizes = replace(puppet.transformer, dim=1024, ffn_dim=4096, num_heads=8, num_layers=layers)
    return replace(puppet, transformer=sizes, dtype="bfloat16")


def plain_read(files: tuple[Path, ...]) -> None:
    """Every byte once, into the same buffer."""
    buffer = bytearray(BUFFER)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_into_huge_pages(files: tuple[Path, ...]) -> mmap.mmap:
    """Every byte once, into one region that stays."""
    region = mmap.mmap(-1, sum(path.stat().st_size for path in files), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    done, view = 0, memoryview(region)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(view[done : done + BUFFER]):
                done += count
    return region


def read_into_memory(files: tuple[Path, ...]) -> list[bytes]:
    """Every byte once, into memory that stays."""
    return [path.read_bytes() for path in files]


def with_load_file(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """safetensors' `load_file`."""
    return {name: tensor.to(torch.bfloat16, copy=True) for path in files for name, tensor in load_file(path).items()}


def with_safe_open(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """safetensors' `safe_open` and `get_tensor`, with the device named."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as shard:
            tensors |= {name: shard.get_tensor(name).to(torch.bfloat16, copy=True) for name in shard.keys()}  # noqa: SIM118
    return tensors


def with_fastsafetensors(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """fastsafetensors without GPU direct storage."""
    package = importlib.import_module("fastsafetensors")
    with package.fastsafe_open([str(path) for path in files], nogds=True, device="cpu") as shards:
        return {name: shards.get_tensor(name).to(torch.bfloat16, copy=True) for name in shards.keys()}  # noqa: SIM118


def with_runai(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Run:ai's model streamer."""
    with importlib.import_module("runai_model_streamer").SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in files])
        return {name: tensor.to(torch.bfloat16, copy=True) for name, tensor in streamer.get_tensors()}


STREAMERS = {"fastsafetensors": with_fastsafetensors, "runai_model_streamer": with_runai}


def ways_of(config: ModelConfig, folder: Path) -> tuple[dict[str, Way], tuple[Path, ...]]:
    """Every way to read the transformer in `folder`, and its files."""
    layout = find_layout(config, folder, "bf16")
    files = layout.transformer.files
    ways: dict[str, Way] = {
        PLAIN[0]: lambda: read_into_memory(files),
        PLAIN[1]: lambda: read_into_huge_pages(files),
        "plain read into one buffer": lambda: plain_read(files),
        "ours: tensors": lambda: load_tensors(plan_loading(transformer_component(config, layout)).readers, CPU),
        OURS: lambda: load_component(transformer_component(config, layout), CPU),
        "safetensors load_file": lambda: with_load_file(files),
        "safetensors get_tensor": lambda: with_safe_open(files),
    }
    for name, way in STREAMERS.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.info("%s is not measured: %s", name, error)
            continue
        ways[name] = lambda way=way: way(files)  # type: ignore[misc]
    return ways, files


def drop(files: tuple[Path, ...]) -> None:
    """Ask the kernel to forget the files' pages."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(name: str, layers: int, folder: Path, cold: bool) -> float:
    """Seconds of one way, in this process."""
    ways, files = ways_of(scaled(layers), folder)
    if cold:
        drop(files)
    start = time.perf_counter()
    kept = ways[name]()
    seconds = time.perf_counter() - start
    del kept
    return seconds


def measure(layers: int, folder: Path, repeats: int, cold: bool) -> dict[str, Any]:
    """Median seconds of every way and its ratio to the plain read; a streaming loader that fails says so."""
    names, files = ways_of(scaled(layers), folder)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, Any] = {}
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["benchmarks.speed.load"])
    plain_read(files)
    with fresh.Pool(1, maxtasksperchild=1) as processes:
        for name in [*names] * repeats:
            try:
                seconds[name].append(processes.apply(timed, (name, layers, folder, cold)))
            except Exception as error:
                if name not in STREAMERS:
                    raise
                failed[name] = {"failed": f"{type(error).__name__}: {error}"}
    plain = min(statistics.median(seconds[name]) for name in PLAIN)
    rows: dict[str, Any] = {}
    for name in (name for name in names if name not in failed):
        median = statistics.median(seconds[name])
        rows[name] = {"median_s": median, "min_s": min(seconds[name]), "ratio": median / plain}
    return rows | failed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.load", description=__doc__)
    parser.add_argument("--layers", type=int, default=20, help="blocks of 23 million parameters (default: 20, 1.7 GB)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write the weights (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = scaled(options.layers)
    document = {**environment("benchmarks.speed.load"), "limit": LIMIT, "goal": GOAL, "forms": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        published, converted = Path(name) / "published", Path(name) / "converted"
        write_model(config, published, seed=0)
        convert(config, published, converted)
        for form, folder in (("published, float32", published), ("converted, bfloat16", converted)):
            files = find_layout(config, folder, "bf16").transformer.files
            document["forms"][form] = {
                "bytes": sum(path.stat().st_size for path in files),
                "warm": measure(options.layers, folder, options.repeats, cold=False),
                "dropped": measure(options.layers, folder, options.repeats, cold=True),
            }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("%s", json.dumps(document, indent=2))
    slow = beyond(document["forms"])
    for place, ratio in slow.items():
        logger.error("%s: %.2f times a plain read, the limit is %.1f", place, ratio, LIMIT)
    return 1 if slow else 0


def beyond(forms: dict[str, Any]) -> dict[str, float]:
    """The ratios that are above the limit, by form and cache."""
    ratios = {
        f"{form}, {cache}": measured[cache][OURS]["ratio"]
        for form, measured in forms.items()
        for cache in ("warm", "dropped")
    }
    return {place: ratio for place, ratio in ratios.items() if ratio > LIMIT}


if __name__ == "__main__":
    sys.exit(main())
