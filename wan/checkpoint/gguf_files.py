"""Tensors in GGUF files, located by the package `gguf` and read in chunks."""

from pathlib import Path
from typing import Any

import torch

from wan.checkpoint.tensor_files import CheckpointError, EncodedTensor, TensorSlice, TensorSource
from wan.modules.block_formats import BLOCK_FORMATS

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Field with the shape of a tensor that was reshaped when the file was written."""


def open_gguf(path: Path) -> dict[str, TensorSource]:
    """Locate each tensor of a GGUF file. Raises `CheckpointError` for other content and for unsupported formats."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a GGUF file, which needs the package gguf: pip install gguf==0.19.0"
        ) from error
    try:
        reader = GGUFReader(path)
        tensors = {tensor.name: _locate(path, reader, tensor) for tensor in reader.tensors}
    except CheckpointError:
        raise
    except (ValueError, LookupError, OSError, TypeError, AssertionError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a GGUF file: {error}") from error
    return tensors


def _locate(path: Path, reader: Any, tensor: Any) -> TensorSource:
    kind, offset = tensor.tensor_type.name, int(tensor.data_offset)
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    if (field := reader.get_field(_ORIGINAL_SHAPE + tensor.name)) is not None:
        shape = tuple(int(field.parts[index][0]) for index in field.data)
    if kind in _PLAIN:
        return TensorSlice(path=path, offset=offset, shape=shape, dtype=_PLAIN[kind])
    if kind not in BLOCK_FORMATS:
        supported = ", ".join((*_PLAIN, *BLOCK_FORMATS))
        raise CheckpointError(f"{path}: {tensor.name} is stored as {kind}; supported are {supported}")
    stored = TensorSlice(path=path, offset=offset, shape=(shape[0], int(tensor.n_bytes) // shape[0]), dtype=torch.uint8)
    return EncodedTensor(stored=stored, shape=shape, block_format=kind)
