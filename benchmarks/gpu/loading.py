"""Seconds from a file to the device, beside a plain read of the same bytes.

The file holds so many bytes of random weights in our converted form, in tensors of the shapes of a block; nothing is
said of more bytes than were read.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.speed.load import drop, read_into_memory
from benchmarks.speed.timing import Spread, seconds_of
from wan.checkpoint.loading import Cast, load_tensors
from wan.checkpoint.tensor_files import open_tensors
from wan.modules.transformer import Block


def measure_loading(bench: Bench) -> dict[str, Any]:
    """Cold, the kernel's copy of the file dropped before every read; both ways take turns."""
    dtype = getattr(torch, bench.config.dtype)
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        path = Path(name) / "weights.safetensors"
        save_file(weights(bench, dtype), path)
        size = path.stat().st_size

        def ours() -> Any:
            reads = {name: Cast(source, dtype) for name, source in open_tensors(path).items()}
            return load_tensors(reads, bench.device)

        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(bench.repeats):
            for way, call in (("plain", lambda: read_into_memory((path,))), ("ours", ours)):
                drop((path,))
                seconds[way].append(seconds_of(call, bench.device))
    plain, found = Spread.of(seconds["plain"]), Spread.of(seconds["ours"])
    upload = size / bench.ceilings.upload if bench.ceilings.upload else 0.0
    return {
        "bytes": size,
        "bytes_per_second": size / found.median_s,
        "plain_read": plain.over(plain.min_s),
        "file_to_device": found.over(max(plain.min_s, upload)),
    }


def weights(bench: Bench, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors of at least so many bytes, made on the host."""
    with torch.device("meta"):
        shapes = [tuple(tensor.shape) for tensor in Block(bench.config.transformer).state_dict().values()]
    drawn: dict[str, Tensor] = {}
    left = bench.load_bytes
    while left > 0:
        for shape in shapes:
            bits = torch.randint(0, 2**15, (math.prod(shape),), dtype=torch.int16)
            drawn[f"{len(drawn)}"] = bits.view(torch.bfloat16).view(shape).to(dtype)
            left -= drawn[f"{len(drawn) - 1}"].nbytes
    return drawn
