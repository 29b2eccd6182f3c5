"""`python -m benchmarks.speed.load`: seconds to load a transformer, beside a plain read of its files.

Random weights are written in the published format (float32) and in the converted one (bfloat16). Every loader ends with
bfloat16 tensors in memory of their own. Every measurement runs in a new process, because a second one would reuse the
memory of the first. Loaders take turns, with a warm page cache and with a dropped one. Written to
benchmarks/results/load.json.

The reference is the faster of two plain reads, each reading every byte once in one thread into memory that is kept:
`read_bytes` into ordinary pages, and a read into huge pages, which our loader requests too; which one is faster depends
on memory fragmentation. Ratios compare medians of the same run. The exit status is 1 if our loader takes more than 1.5
times the reference for any format and cache state. A read into one small reused buffer, which keeps nothing and stays
in the CPU cache, is shown for comparison only. fastsafetensors and Run:ai's streamer are measured if installed.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, existing_folder, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.speed.load", __doc__)
    parser.add_argument(
        "--layers", type=whole_number(), default=20, help="blocks of 23 million parameters; 20 make 1.7 GB in float32"
    )
    parser.add_argument("--repeats", type=whole_number(), default=5, help="measurements of each loader")
    parser.add_argument(
        "--folder", type=existing_folder, help="parent of the temporary folder for the weights (default: the system's)"
    )
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "load.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.speed.load", make_parser)

import importlib
import json
import logging
import mmap
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.report.environment import environment, write_result
from training.random_weights import write_model
from wan.checkpoint.component import load_component, plan_loading
from wan.checkpoint.components import transformer_component
from wan.checkpoint.convert import convert
from wan.checkpoint.layout import find_layout
from wan.checkpoint.loading import load_tensors
from wan.configs import WAN_CONFIGS, ModelConfig

logger = logging.getLogger(__name__)

MAX_RATIO, GOAL = 1.5, 1.3
REFERENCES, OURS = ("read_bytes", "plain read into huge pages"), "ours: module"
BUFFER_BYTES = 16 * 2**20
CPU = torch.device("cpu")
Loader = Callable[[], Any]


def scaled_config(layers: int) -> ModelConfig:
    """A transformer of about 23 million parameters per block; the other components stay small."""
    puppet = WAN_CONFIGS["multitalk-puppet"]
    transformer = replace(puppet.transformer, dim=1024, ffn_dim=4096, num_heads=8, num_layers=layers)
    return replace(puppet, transformer=transformer, dtype="bfloat16")


def read_into_buffer(files: tuple[Path, ...]) -> None:
    """Read every byte once, into one small reused buffer."""
    buffer = bytearray(BUFFER_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_into_huge_pages(files: tuple[Path, ...]) -> mmap.mmap:
    """Read every byte once, into one anonymous mapping of huge pages."""
    region = mmap.mmap(-1, sum(path.stat().st_size for path in files), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    offset, view = 0, memoryview(region)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(view[offset : offset + BUFFER_BYTES]):
                offset += count
    return region


def read_into_memory(files: tuple[Path, ...]) -> list[bytes]:
    """Read every byte once, into newly allocated memory."""
    return [path.read_bytes() for path in files]


def with_load_file(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Load with `safetensors.torch.load_file`."""
    return {name: tensor.to(torch.bfloat16, copy=True) for path in files for name, tensor in load_file(path).items()}


def with_safe_open(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Load with `safetensors.safe_open` and `get_tensor`, with an explicit device."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as shard:
            tensors |= {name: shard.get_tensor(name).to(torch.bfloat16, copy=True) for name in shard.keys()}  # noqa: SIM118
    return tensors


def with_fastsafetensors(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Load with fastsafetensors, without GPUDirect Storage."""
    package = importlib.import_module("fastsafetensors")
    with package.fastsafe_open([str(path) for path in files], nogds=True, device="cpu") as shards:
        return {name: shards.get_tensor(name).to(torch.bfloat16, copy=True) for name in shards.keys()}  # noqa: SIM118


def with_runai(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Load with Run:ai's model streamer."""
    with importlib.import_module("runai_model_streamer").SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in files])
        return {name: tensor.to(torch.bfloat16, copy=True) for name, tensor in streamer.get_tensors()}


OPTIONAL_LOADERS = {"fastsafetensors": with_fastsafetensors, "runai_model_streamer": with_runai}


def make_loaders(config: ModelConfig, folder: Path) -> tuple[dict[str, Loader], tuple[Path, ...]]:
    """Every loader of the transformer in `folder`, by name, and the transformer's files."""
    layout = find_layout(config, folder, "bf16")
    files = layout.transformer.files
    loaders: dict[str, Loader] = {
        REFERENCES[0]: lambda: read_into_memory(files),
        REFERENCES[1]: lambda: read_into_huge_pages(files),
        "plain read into one buffer": lambda: read_into_buffer(files),
        "ours: tensors": lambda: load_tensors(plan_loading(transformer_component(config, layout)).readers, CPU),
        OURS: lambda: load_component(transformer_component(config, layout), CPU),
        "safetensors load_file": lambda: with_load_file(files),
        "safetensors get_tensor": lambda: with_safe_open(files),
    }
    for name, load in OPTIONAL_LOADERS.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.info("%s is not measured: %s", name, error)
            continue
        loaders[name] = lambda load=load: load(files)  # type: ignore[misc]
    return loaders, files


def drop_page_cache(files: tuple[Path, ...]) -> None:
    """Ask the kernel to evict the files from its page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_loader(name: str, layers: int, folder: Path, cold: bool) -> float:
    """Seconds of one loader, in this process."""
    loaders, files = make_loaders(scaled_config(layers), folder)
    if cold:
        drop_page_cache(files)
    start = time.perf_counter()
    weights = loaders[name]()
    seconds = time.perf_counter() - start
    del weights
    return seconds


def measure(layers: int, folder: Path, repeats: int, cold: bool) -> dict[str, Any]:
    """Median seconds of every loader and its ratio to the reference; an optional loader that fails is recorded."""
    names, files = make_loaders(scaled_config(layers), folder)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, Any] = {}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.speed.load"])
    read_into_buffer(files)
    with context.Pool(1, maxtasksperchild=1) as processes:
        for name in [*names] * repeats:
            try:
                seconds[name].append(processes.apply(time_loader, (name, layers, folder, cold)))
            except Exception as error:
                if name not in OPTIONAL_LOADERS:
                    raise
                failed[name] = {"failed": f"{type(error).__name__}: {error}"}
    reference = min(statistics.median(seconds[name]) for name in REFERENCES)
    rows: dict[str, Any] = {}
    for name in (name for name in names if name not in failed):
        median = statistics.median(seconds[name])
        rows[name] = {"median_s": median, "min_s": min(seconds[name]), "ratio": median / reference}
    return rows | failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    config = scaled_config(args.layers)
    document = {**environment("benchmarks.speed.load"), "limit": MAX_RATIO, "goal": GOAL, "forms": {}}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        published, converted = Path(name) / "published", Path(name) / "converted"
        write_model(config, published, seed=0)
        convert(config, published, converted)
        for form, folder in (("published, float32", published), ("converted, bfloat16", converted)):
            files = find_layout(config, folder, "bf16").transformer.files
            document["forms"][form] = {
                "bytes": sum(path.stat().st_size for path in files),
                "warm": measure(args.layers, folder, args.repeats, cold=False),
                "dropped": measure(args.layers, folder, args.repeats, cold=True),
            }
    write_result(args.output, document)
    logger.info("%s", json.dumps(document, indent=2))
    slow = over_limit(document["forms"])
    for case, ratio in slow.items():
        logger.error("%s: %.2f times a plain read, the limit is %.1f", case, ratio, MAX_RATIO)
    return 1 if slow else 0


def over_limit(forms: dict[str, Any]) -> dict[str, float]:
    """Ratios of our loader above the limit, by checkpoint format and cache state."""
    ratios = {
        f"{form}, {cache}": measured[cache][OURS]["ratio"]
        for form, measured in forms.items()
        for cache in ("warm", "dropped")
    }
    return {case: ratio for case, ratio in ratios.items() if ratio > MAX_RATIO}
