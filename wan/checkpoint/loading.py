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

from wan.modules.quantized import quantise_rows
from wan.checkpoint.tensor_files import Source, StoredTensor, fetch, pieces, read_into

THREADS = 4
ALIGNMENT = 64
DATA, SCALE = "._data", "._scale"
"""Ends of the two names of an eight-bit weight in optimum-quanto's files, and in ours."""


class Form(NamedTuple):
    """Shape and dtype of a tensor to be."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Read(Protocol):
    """One stored tensor and the tensors that it becomes, by the ends that their names get."""

    @property
    def source(self) -> Source: ...

    @property
    def forms(self) -> dict[str, Form]: ...

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Cast:
    """The same tensor as another dtype."""

    source: Source
    dtype: torch.dtype

    @property
    def forms(self) -> dict[str, Form]:
        return {"": Form(tuple(self.source.shape), self.dtype)}

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        return {"": fetch(self.source, rows).to(device).to(self.dtype)}


@dataclass(frozen=True, slots=True)
class Quantise:
    """A matrix as eight-bit data and a scale per row."""

    source: Source
    dtype: torch.dtype

    @property
    def forms(self) -> dict[str, Form]:
        return {
            DATA: Form(tuple(self.source.shape), self.dtype),
            SCALE: Form((self.source.shape[0], 1), torch.float32),
        }

    def piece(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        data, scale = quantise_rows(fetch(self.source, rows).to(device), self.dtype)
        return {DATA: data, SCALE: scale}


def allocate(wanted: Mapping[str, Read], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Room for all tensors of all reads.

    On the CPU it is one region that asks for huge pages: a page fault for every 4 KB of fresh memory takes longer than
    reading what goes there (benchmarks/results/load.json). The region lives as long as the last of its tensors.
    """
    if device.type != "cpu":
        return {
            name: {end: torch.empty(form.shape, dtype=form.dtype, device=device) for end, form in read.forms.items()}
            for name, read in wanted.items()
        }
    places: dict[tuple[str, str], tuple[Form, int]] = {}
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


def fill(results: Mapping[str, Tensor], wanted: Read) -> None:
    """Read into what `allocate` gave."""
    source = wanted.source
    device = next(iter(results.values())).device
    if isinstance(wanted, Cast) and device.type == "cpu":
        _fill_on_cpu(results[""], source)
        return
    views = results if source.shape else {end: result[None] for end, result in results.items()}
    for rows in pieces(source):
        for end, piece in wanted.piece(rows, device).items():
            views[end][rows] = piece


@torch.inference_mode(False)
def read_all(wanted: Mapping[str, Read], device: torch.device) -> dict[str, Tensor]:
    """Every read under its name and ends, several at once, in the order in which the files hold them.

    Memory for what stays is taken beforehand: mixed with what passes, it would leave holes of half its size (measured).
    """

    def place(name: str) -> tuple[str, int]:
        source = wanted[name].source
        return (str(source.path), source.offset) if isinstance(source, StoredTensor) else ("", 0)

    names = sorted(wanted, key=place)
    results = allocate({name: wanted[name] for name in names}, device)
    with ThreadPoolExecutor(THREADS) as pool:
        deque(pool.map(lambda name: fill(results[name], wanted[name]), names), maxlen=0)
    return {name + end: tensor for name, result in results.items() for end, tensor in result.items()}


def _fill_on_cpu(result: Tensor, source: Source) -> None:
    """Cast without a copy in between."""
    if isinstance(source, StoredTensor) and source.dtype == result.dtype:
        read_into(result, source)
        return
    view = result if source.shape else result[None]
    for rows in pieces(source):
        view[rows].copy_(fetch(source, rows))
