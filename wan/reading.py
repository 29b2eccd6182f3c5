"""What becomes of a stored tensor: cast, or rounded to eight bits; and many of them read side by side.

Loading and converting share these, piece for piece, so that a converted file holds the bits that loading would make.
"""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wan.modules.quantised import quantise_rows
from wan.stored import Source, StoredTensor, fetch, pieces, read_into

THREADS = 4
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


def allocate(wanted: Read, device: torch.device) -> dict[str, Tensor]:
    """Room for all tensors of one read."""
    return {end: torch.empty(form.shape, dtype=form.dtype, device=device) for end, form in wanted.forms.items()}


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


def read_all(wanted: Mapping[str, Read], device: torch.device) -> dict[str, Tensor]:
    """Every read under its name and ends, several at once, in the order in which the files hold them.

    This thread allocates all that stays, and the others only what passes: mixed, they would leave the allocator with
    half as much again in holes (measured).
    """

    def place(name: str) -> tuple[str, int]:
        source = wanted[name].source
        return (str(source.path), source.offset) if isinstance(source, StoredTensor) else ("", 0)

    names = sorted(wanted, key=place)
    results = {name: allocate(wanted[name], device) for name in names}
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
