"""What becomes of a stored tensor: cast, or rounded to eight bits; and many of them read side by side.

Loading and converting share these, piece for piece, so that a converted file holds the bits that loading would make.
"""

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


def read(wanted: Read, device: torch.device) -> dict[str, Tensor]:
    """All tensors of one read, in memory of their own on `device`."""
    results = {end: torch.empty(form.shape, dtype=form.dtype, device=device) for end, form in wanted.forms.items()}
    source = wanted.source
    unchanged = isinstance(wanted, Cast) and source.dtype == wanted.dtype
    if isinstance(source, StoredTensor) and unchanged and device.type == "cpu":
        read_into(results[""], source)
        return results
    views = results if source.shape else {end: result[None] for end, result in results.items()}
    for rows in pieces(source):
        for end, piece in wanted.piece(rows, device).items():
            views[end][rows] = piece
    return results


def read_all(wanted: Mapping[str, Read], device: torch.device) -> dict[str, Tensor]:
    """Every read under its name and ends, several at once, in the order in which the files hold them."""

    def place(name: str) -> tuple[str, int]:
        source = wanted[name].source
        return (str(source.path), source.offset) if isinstance(source, StoredTensor) else ("", 0)

    names = sorted(wanted, key=place)
    with ThreadPoolExecutor(THREADS) as pool:
        results = dict(zip(names, pool.map(lambda name: read(wanted[name], device), names), strict=True))
    return {name + end: tensor for name, result in results.items() for end, tensor in result.items()}
