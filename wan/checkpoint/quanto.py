"""Quantization maps of optimum-quanto: JSON files that list the quantized layers of a checkpoint and their dtypes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wan.checkpoint.loading import DATA_SUFFIX
from wan.checkpoint.tensor_files import CheckpointError, truncate_names

QuantizationMap = Mapping[str, torch.dtype]
"""File key prefixes of quantized layers, and the dtypes of their weights."""

FORMATS = {"qint8": torch.int8, "qfloat8_e4m3fn": torch.float8_e4m3fn}
ACTIVATION_SCALES = (".input_scale", ".output_scale")


def read_map(path: Path) -> QuantizationMap:
    """Read a map. Raises `CheckpointError` that lists the layers of unsupported formats."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not a map of layers: {error}") from error
    return parse_map(content, str(path))


def parse_map(content: Any, what: str) -> QuantizationMap:
    """Validate the content of a map; quantized activations, which no published file has, are not supported."""
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{what} is not a map of layers")
    unsupported = [f"{layer} is {entry}" for layer, entry in content.items() if not _is_supported(entry)]
    if unsupported:
        raise CheckpointError(
            f"{what}: {len(unsupported)} of another format than {', '.join(FORMATS)} with activations none: "
            f"{truncate_names(unsupported)}"
        )
    return {layer: FORMATS[entry["weights"]] for layer, entry in content.items()}


def map_content(layers: QuantizationMap) -> dict[str, dict[str, str]]:
    """The content of a map file; the inverse of `parse_map`."""
    names = {dtype: name for name, dtype in FORMATS.items()}
    return {layer: {"weights": names[dtype], "activations": "none"} for layer, dtype in layers.items()}


def check_layers(layers: QuantizationMap, stored: Mapping[str, torch.dtype], what: str) -> None:
    """Raise `CheckpointError` that lists differences unless exactly the map's layers have `_data`, of its dtype."""
    suffix = ".weight" + DATA_SUFFIX
    found = {key.removesuffix(suffix): dtype for key, dtype in stored.items() if key.endswith(suffix)}
    mismatches = {
        "in the map but without _data": sorted(layers.keys() - found.keys()),
        "with _data but not in the map": sorted(found.keys() - layers.keys()),
        "of another type than the map says": sorted(
            name for name in layers.keys() & found.keys() if layers[name] != found[name]
        ),
    }
    errors = [f"{len(names)} {reason}: {truncate_names(names)}" for reason, names in mismatches.items() if names]
    if errors:
        raise CheckpointError(f"{what}: {'; '.join(errors)}")


def activation_scales(layers: QuantizationMap) -> set[str]:
    """Keys that a quantized file may contain; without quantized activations they are 1.0, and are not read."""
    return {layer + suffix for layer in layers for suffix in ACTIVATION_SCALES}


def _is_supported(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("weights") in FORMATS and entry.get("activations") == "none"
