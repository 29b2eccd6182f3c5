"""Tensors in safetensors and .pth files, located by offset and read in chunks.

Files are read, not memory-mapped: the pages of a mapped file count as resident memory, so that casting a float32
shard to bfloat16 would hold three times the result's size. Reading holds the result and one chunk.
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

from wan.modules.block_formats import expand

CHUNK_BYTES = 16 * 2**20
"""Size of a read; a chunk has at least one row, which may be larger."""

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
"""Names of dtypes in safetensors headers."""

_MAX_NAMES = 20
_MAX_NAME_CHARS = 200
# What torch.load and zipfile raise for malformed files.
_FORMAT_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
    *(RuntimeError, EOFError, AttributeError, AssertionError, LookupError, TypeError, ValueError),
)
_thread = threading.local()


class CheckpointError(ValueError):
    """Weights are absent, incomplete or belong to another network; the message lists names."""


def truncate_names(names: list[str]) -> str:
    """The first 20 names, each cut after 200 characters, and the count of the others."""
    more = len(names) - _MAX_NAMES
    return ", ".join(name[:_MAX_NAME_CHARS] for name in names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlice:
    """A contiguous tensor in a file. Slicing rows and reshaping give another `TensorSlice`, nothing is read."""

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
        """The same elements in another shape, without -1."""
        assert math.prod(shape) == math.prod(self.shape)
        return replace(self, shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTensor:
    """A tensor whose float32 values are computed from stored ones: fp8 with a scale per row, or a block format of GGUF.

    `stored` holds the fp8 values in the same shape, or the packed bytes of each row. `scale`: rows x 1, float32.
    """

    stored: TensorSlice | Tensor
    shape: tuple[int, ...]
    scale: Tensor | None = None
    block_format: str = ""

    @property
    def dtype(self) -> torch.dtype:
        """That of the values."""
        return torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_linear_format(self) -> bool:
        """Whether a quantized linear layer can keep the weight in its stored form."""
        return len(self.shape) == 2 and (bool(self.block_format) or self.stored.dtype == torch.float8_e4m3fn)

    def __getitem__(self, rows: slice) -> "EncodedTensor":
        start, stop, _ = rows.indices(self.shape[0])
        scale = None if self.scale is None else self.scale[rows]
        return replace(self, stored=self.stored[rows], shape=(stop - start, *self.shape[1:]), scale=scale)

    def reshape(self, *shape: int) -> "EncodedTensor":
        """The same values in another shape with the same rows."""
        assert shape[:1] == self.shape[:1]
        assert math.prod(shape) == math.prod(self.shape)
        return replace(self, shape=shape)

    def read(self) -> Tensor:
        """All values in float32."""
        stored = read_rows(self.stored, slice(0, self.shape[0]))
        if self.block_format:
            return expand(stored, self.block_format).view(self.shape)
        values = stored.float()
        return (values if self.scale is None else values.flatten(1) * self.scale).view(self.shape)


TensorSource = TensorSlice | EncodedTensor | Tensor
"""Where the values of a tensor come from: a file, or memory."""


def open_tensors(path: Path) -> dict[str, TensorSource]:
    """Every tensor of a `.safetensors`, `.gguf` or `.pth` file by name. Raises `CheckpointError` for other content."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    if path.suffix == ".gguf":
        from wan.checkpoint.gguf_files import open_gguf

        return open_gguf(path)
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pth(path)


def open_safetensors(path: Path) -> dict[str, TensorSource]:
    """Locate each tensor of a safetensors file, after the library has validated the header."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    unsupported = sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys())
    if unsupported:
        raise CheckpointError(
            f"{path} has tensors of dtype {', '.join(unsupported)}; supported are {', '.join(DTYPES)}"
        )
    return {
        name: TensorSlice(
            path=path,
            offset=8 + length + entry["data_offsets"][0],
            shape=tuple(entry["shape"]),
            dtype=DTYPES[entry["dtype"]],
        )
        for name, entry in header.items()
    }


def open_pth(path: Path) -> dict[str, TensorSource]:
    """Locate each tensor of a `.pth` file; a pickle that would execute code is refused.

    Files in the legacy format, compressed files and files with non-contiguous tensors are loaded into memory instead.
    """
    if _is_uncompressed(path):
        with FakeTensorMode():
            fakes = _load_pth(path)
        slices = {name: _locate(path, fake) for name, fake in fakes.items()}
        if all(slices.values()):
            return {name: located for name, located in slices.items() if located is not None}
    return dict(_load_pth(path))


def _load_pth(path: Path) -> dict[str, Tensor]:
    """Load a dictionary of tensors by name. Raises `CheckpointError` for any other content."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _FORMAT_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a file of tensors only: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a file of tensors only: it holds one {type(content).__name__}")
    others = [repr(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{path} is not a file of tensors only: {truncate_names(others)}")
    return content


def _is_uncompressed(path: Path) -> bool:
    """Whether a file is a zip archive whose entries are stored uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except _FORMAT_ERRORS:
        return False


def _locate(path: Path, fake: Any) -> TensorSlice | None:
    """Where the data of a fake tensor lies in the file; None if it is not contiguous there.

    `_checkpoint_offset` is private to torch, but the public `torch.load(mmap=True)` would hold the whole file in
    memory beside the result (measured: a peak of 960 instead of 390 MB for 640 MB cast to half their size).
    """
    start = getattr(fake.untyped_storage(), "_checkpoint_offset", None)
    if start is None or not fake.is_contiguous():
        return None
    offset = start + fake.storage_offset() * fake.dtype.itemsize
    return TensorSlice(path=path, offset=offset, shape=tuple(fake.shape), dtype=fake.dtype)


def row_chunks(source: TensorSource) -> Iterator[slice]:
    """Consecutive row ranges of about `CHUNK_BYTES` that cover a tensor; a scalar counts as one row."""
    rows = source.shape[0] if source.shape else 1
    step = max(1, CHUNK_BYTES * rows // max(1, source.nbytes))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def read_rows(source: TensorSource, rows: slice) -> Tensor:
    """Rows of a tensor on the CPU in its own dtype, in a buffer that this thread's next call overwrites."""
    chunk = source[rows] if source.shape else source.reshape(1)
    if isinstance(chunk, Tensor):
        return chunk
    if isinstance(chunk, EncodedTensor):
        return chunk.read()
    buffer = getattr(_thread, "buffer", None)
    if buffer is None or len(buffer) < chunk.nbytes:
        buffer = _thread.buffer = torch.empty(max(CHUNK_BYTES, chunk.nbytes), dtype=torch.uint8)
    tensor = buffer[: chunk.nbytes].view(chunk.dtype).view(chunk.shape)
    read_into(tensor, chunk)
    return tensor


def read_into(tensor: Tensor, source: TensorSlice) -> None:
    """Read a slice into a contiguous CPU tensor of its shape and dtype."""
    if not source.nbytes:
        return
    view = memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    with source.path.open("rb", buffering=0) as file:
        done = 0
        while done < len(view):
            count = os.preadv(file.fileno(), [view[done:]], source.offset + done)
            if not count:
                raise CheckpointError(f"{source.path} is truncated")
            done += count
