"""A golden file: tensors and the metadata that says how they came about."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


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

    def sibling(self, stem: str) -> "GoldenFile":
        """Another file of the same folder."""
        return read_golden(self.path.with_name(f"{stem}.safetensors"))


def read_golden(path: Path) -> GoldenFile:
    """Read every tensor of a golden file."""
    with safe_open(path, framework="pt") as handle:
        config = json.loads((handle.metadata() or {}).get("config", "{}"))
        names = list(handle.keys())
        return GoldenFile(path=path, config=config, tensors={name: handle.get_tensor(name) for name in names})
