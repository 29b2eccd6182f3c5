"""Golden files: tensors, and metadata that describes how they were computed; plain, or compressed with xz."""

import json
import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

SUFFIXES = (".safetensors", ".safetensors.xz")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFile:
    """Tensors by name, and the `config` metadata."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The `sd.*` tensors without their prefix, as float32."""
        return {name[3:]: tensor.float() for name, tensor in self.tensors.items() if name.startswith("sd.")}

    def sibling(self, name: str) -> "GoldenFile":
        """Another file of the same folder, by its name without suffix."""
        return read_golden(next(path for path in golden_paths(self.path.parent) if stem(path) == name))


def golden_paths(folder: Path) -> Iterator[Path]:
    """The golden files of a folder, in order of name."""
    return (path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES))


def stem(path: Path) -> str:
    """A golden file's name without suffixes."""
    return path.name.partition(".safetensors")[0]


def read_golden(path: Path) -> GoldenFile:
    """Read every tensor of a golden file."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    config = json.loads(metadata.get("config", "{}"))
    return GoldenFile(path=path, config=config, tensors=safetensors.torch.load(data))
