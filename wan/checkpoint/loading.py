"""What becomes of a stored tensor: cast, or rounded to eight bits; and many of them read side by side.

Loading and converting share these, piece for piece, so that a converted file holds the bits that loading would make.
"""

import math
import mmap
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wan.checkpoint.tensor_files import TensorSlice, TensorSource, read_into, read_rows, row_chunks
from wan.modules.quantized import quantize_rows

THREADS = 4
ALIGNMENT = 64
DATA_SUFFIX, SCALE_SUFFIX = "._data", "._scale"
"""Ends of the two names of an eight-bit weight in optimum-quanto's files, and in ours."""


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor to be."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorReader(Protocol):
    """One stored tensor and the tensors that it becomes, by the ends that their names get."""

    @property
    def source(self) -> TensorSource: ...

    @property
    def forms(self) -> dict[str, TensorSpec]: ...

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Cast:
    """The same tensor as another dtype."""

    source: TensorSource
    dtype: torch.dtype

    @property
    def forms(self) -> dict[str, TensorSpec]:
        return {"": TensorSpec(tuple(self.source.shape), self.dtype)}

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        return {"": read_rows(self.source, rows).to(device).to(self.dtype)}


@dataclass(frozen=True, slots=True)
class Quantize:
    """A matrix as eight-bit data and a scale per row."""

    source: TensorSource
    dtype: torch.dtype

    @property
    def forms(self) -> dict[str, TensorSpec]:
        return {
            DATA_SUFFIX: TensorSpec(tuple(self.source.shape), self.dtype),
            SCALE_SUFFIX: TensorSpec((self.source.shape[0], 1), torch.float32),
        }

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        data, scale = quantize_rows(read_rows(self.source, rows).to(device), self.dtype)
        return {DATA_SUFFIX: data, SCALE_SUFFIX: scale}


def allocate(wanted: Mapping[str, TensorReader], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Room for all tensors of all reads.

    On the CPU it is one region that asks for huge pages: a page fault for every 4 KB of fresh memory takes longer than
    reading what goes there (benchmarks/results/load.json). The region lives as long as the last of its tensors.
    """
    if device.type != "cpu":
        return {
            name: {end: torch.empty(form.shape, dtype=form.dtype, device=device) for end, form in read.forms.items()}
            for name, read in wanted.items()
        }
    places: dict[tuple[str, str], tuple[TensorSpec, int]] = {}
    size = 0
    for name, read in wanted.items():
        for end, form in read.forms.items():
            places[name, end] = form, size
            size += -(-math.prod(form.shape) * form.dtype.itemsize // ALIGNMENT) * ALIGNMENT
    region = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    results: dict[str, dict[str, Tensor]] = {name: {} for name in wanted}
    for (name, end), (form, offset) in places.items():
        count = math.prod(form.shape)
        flat = torch.frombuffer(region, dtype=form.dtype, count=count, offset=offset)
        results[name][end] = flat.view(form.shape)
    return results


def fill(results: Mapping[str, Tensor], wanted: TensorReader) -> None:
    """Read into what `allocate` gave."""
    source = wanted.source
    device = next(iter(results.values())).device
    if isinstance(wanted, Cast) and device.type == "cpu":
        _fill_on_cpu(results[""], source)
        return
    views = results if source.shape else {end: result[None] for end, result in results.items()}
    for rows in row_chunks(source):
        for end, piece in wanted.piece(rows, device).items():
            views[end][rows] = piece


@torch.inference_mode(False)
def load_tensors(wanted: Mapping[str, TensorReader], device: torch.device) -> dict[str, Tensor]:
    """Every read under its name and ends, several at once, in the order in which the files hold them.

    Memory for what stays is taken beforehand: mixed with what passes, it would leave holes of half its size (measured).
    """

    def place(name: str) -> tuple[str, int]:
        source = wanted[name].source
        return (str(source.path), source.offset) if isinstance(source, TensorSlice) else ("", 0)

    names = sorted(wanted, key=place)
    results = allocate({name: wanted[name] for name in names}, device)
    with ThreadPoolExecutor(THREADS) as pool:
        deque(pool.map(lambda name: fill(results[name], wanted[name]), names), maxlen=0)
    return {name + end: tensor for name, result in results.items() for end, tensor in result.items()}


def _fill_on_cpu(result: Tensor, source: TensorSource) -> None:
    """Cast without a copy in between."""
    if isinstance(source, TensorSlice) and source.dtype == result.dtype:
        read_into(result, source)
        return
    view = result if source.shape else result[None]
    for rows in row_chunks(source):
        view[rows].copy_(read_rows(source, rows))
