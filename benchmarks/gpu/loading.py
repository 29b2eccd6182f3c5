"""Seconds to load a converted checkpoint file to the device, beside a plain read of the same bytes.

The file holds `Bench.load_bytes` of random weights in tensors of the shapes of a transformer block.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.speed.load import drop_page_cache, read_into_memory
from benchmarks.speed.timing import TimingStats, time_call
from wan.checkpoint.loading import Cast, load_tensors
from wan.checkpoint.tensor_files import open_tensors
from wan.modules.transformer import Block


def measure_loading(bench: Bench) -> dict[str, Any]:
    """Load with a cold page cache, interleaved with plain reads."""
    dtype = getattr(torch, bench.config.dtype)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(random_weights(bench, dtype), path)
        size = path.stat().st_size

        def load() -> Any:
            reads = {name: Cast(source, dtype) for name, source in open_tensors(path).items()}
            return load_tensors(reads, bench.device)

        seconds: dict[str, list[float]] = {"plain": [], "load": []}
        for _ in range(bench.repeats):
            for name, call in (("plain", lambda: read_into_memory((path,))), ("load", load)):
                drop_page_cache((path,))
                seconds[name].append(time_call(call, bench.device))
    plain, load_time = TimingStats.from_seconds(seconds["plain"]), TimingStats.from_seconds(seconds["load"])
    upload_s = size / bench.peak.host_to_device if bench.peak.host_to_device else 0.0
    return {
        "bytes": size,
        "bytes_per_second": size / load_time.median_s,
        "plain_read": plain.with_roofline(plain.min_s),
        "file_to_device": load_time.with_roofline(max(plain.min_s, upload_s)),
    }


def random_weights(bench: Bench, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors of at least `Bench.load_bytes`, on the CPU."""
    with torch.device("meta"):
        shapes = [tuple(tensor.shape) for tensor in Block(bench.config.transformer).state_dict().values()]
    tensors: dict[str, Tensor] = {}
    remaining = bench.load_bytes
    while remaining > 0:
        for shape in shapes:
            bits = torch.randint(0, 2**15, (math.prod(shape),), dtype=torch.int16)
            tensor = bits.view(torch.bfloat16).view(shape).to(dtype)
            tensors[f"{len(tensors)}"] = tensor
            remaining -= tensor.nbytes
    return tensors
