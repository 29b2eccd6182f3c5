"""Tensors where they lie in files, read piece by piece.

Files are read, not mapped: pages of a mapped file count as memory of the process for as long as the file is mapped,
so a float32 shard that becomes bfloat16 would cost three times its size. Here it costs one piece.
"""

import json
import math
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

CHUNK_BYTES = 16 * 2**20
"""Bytes that are read at once, if a row is not longer."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_LISTED = 20
# What torch and zipfile raise for bytes that are not what they should be.
_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
    *(RuntimeError, EOFError, AttributeError, AssertionError, LookupError, TypeError, ValueError),
)
_thread = threading.local()


class CheckpointError(ValueError):
    """Weights that are absent, incomplete or of another network; the message lists names."""


def truncate_names(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlice:
    """A contiguous tensor in a file; slices of rows and reshaped forms are `TensorSlice`s too."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> "TensorSlice":
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1
        row_bytes = self.nbytes // self.shape[0]
        return replace(self, offset=self.offset + start * row_bytes, shape=(stop - start, *self.shape[1:]))

    def reshape(self, *shape: int) -> "TensorSlice":
        """The same elements in another shape; no -1."""
        assert math.prod(shape) == math.prod(self.shape)
        return replace(self, shape=shape)


TensorSource = TensorSlice | Tensor
"""A tensor to be: in a file, or in memory already."""


def open_tensors(path: Path) -> dict[str, TensorSource]:
    """Every tensor of a `.safetensors` or `.pth` file by name; `CheckpointError` for any other content."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pth(path)


def open_safetensors(path: Path) -> dict[str, TensorSource]:
    """Where each tensor of a safetensors file lies; the library checks the file first."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    unread = sorted({entry["dtype"] for name, entry in header.items() if name != "__metadata__"} - DTYPES.keys())
    if unread:
        raise CheckpointError(f"{path} holds tensors of type {', '.join(unread)}; known are {', '.join(DTYPES)}")
    return {
        name: TensorSlice(
            path=path,
            offset=8 + length + entry["data_offsets"][0],
            shape=tuple(entry["shape"]),
            dtype=DTYPES[entry["dtype"]],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def open_pth(path: Path) -> dict[str, TensorSource]:
    """Where each tensor of a `.pth` file lies; a pickle that needs code to run is refused.

    Files of the legacy format, compressed ones, and tensors that are not contiguous are read into memory at once.
    """
    if _is_uncompressed(path):
        with FakeTensorMode():
            shapes = _load_pth(path)
        located = {name: _locate(path, tensor) for name, tensor in shapes.items()}
        if all(located.values()):
            return {name: tensor for name, tensor in located.items() if tensor is not None}
    return dict(_load_pth(path))


def _load_pth(path: Path) -> dict[str, Tensor]:
    """What torch loads, if that is tensors by name."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a file of tensors only: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a file of tensors only: it holds one {type(content).__name__}")
    others = [repr(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{path} is not a file of tensors only: {truncate_names(others)}")
    return content


def _is_uncompressed(path: Path) -> bool:
    """Whether the bytes of a zip file's entries are those of the tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except _UNREADABLE:
        return False


def _locate(path: Path, tensor: Any) -> TensorSlice | None:
    """Place in the file of a tensor that was loaded without its data; None where it has none of its own."""
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None or not tensor.is_contiguous():
        return None
    offset = start + tensor.storage_offset() * tensor.dtype.itemsize
    return TensorSlice(path=path, offset=offset, shape=tuple(tensor.shape), dtype=tensor.dtype)


def row_chunks(source: TensorSource) -> Iterator[slice]:
    """Consecutive ranges of rows of about `CHUNK_BYTES` bytes that make up a tensor; a scalar is one row."""
    rows = source.shape[0] if source.shape else 1
    step = max(1, CHUNK_BYTES * rows // max(1, source.nbytes))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def read_rows(source: TensorSource, rows: slice) -> Tensor:
    """Some rows of a tensor on the CPU, in its own dtype; valid until this thread's next call."""
    piece = source[rows] if source.shape else source.reshape(1)
    if isinstance(piece, Tensor):
        return piece
    staging = getattr(_thread, "staging", None)
    if staging is None or len(staging) < piece.nbytes:
        staging = _thread.staging = torch.empty(max(CHUNK_BYTES, piece.nbytes), dtype=torch.uint8)
    staged = staging[: piece.nbytes].view(piece.dtype).view(piece.shape)
    read_into(staged, piece)
    return staged


def read_into(tensor: Tensor, stored: TensorSlice) -> None:
    """Fill a contiguous CPU tensor of the stored shape and dtype."""
    if not stored.nbytes:
        return
    memory = memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    with stored.path.open("rb", buffering=0) as file:
        done = 0
        while done < len(memory):
            count = os.preadv(file.fileno(), [memory[done:]], stored.offset + done)
            if not count:
                raise CheckpointError(f"{stored.path} ends too early")
            done += count
