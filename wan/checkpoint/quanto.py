"""Weights in optimum-quanto's files: a JSON map says which layers are stored in eight bits, and how."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wan.checkpoint.loading import DATA_SUFFIX
from wan.checkpoint.tensor_files import CheckpointError, truncate_names

QuantizationMap = Mapping[str, torch.dtype]
"""Published names of layers, and what their weights are stored as."""

FORMATS = {"qint8": torch.int8, "qfloat8_e4m3fn": torch.float8_e4m3fn}
ACTIVATION_SCALES = (".input_scale", ".output_scale")


def read_map(path: Path) -> QuantizationMap:
    """The map of a quantised file; `CheckpointError` for a format that is not known, listed by layer."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not a map of layers: {error}") from error
    return parse_map(content, str(path))


def parse_map(content: Any, what: str) -> QuantizationMap:
    """Layers and formats of a map; activations must be `none`, as in every published file."""
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{what} is not a map of layers")
    others = [f"{layer} is {entry}" for layer, entry in content.items() if not _is_known(entry)]
    if others:
        known = ", ".join(FORMATS)
        raise CheckpointError(
            f"{what}: {len(others)} of another format than {known} with activations none: {truncate_names(others)}"
        )
    return {layer: FORMATS[entry["weights"]] for layer, entry in content.items()}


def map_content(layers: QuantizationMap) -> dict[str, dict[str, str]]:
    """What `parse_map` reads."""
    names = {dtype: name for name, dtype in FORMATS.items()}
    return {layer: {"weights": names[dtype], "activations": "none"} for layer, dtype in layers.items()}


def check_layers(layers: QuantizationMap, stored: Mapping[str, torch.dtype], what: str) -> None:
    """Exactly the map's layers must have `_data`, of the map's dtype; `CheckpointError` lists those that differ."""
    end = ".weight" + DATA_SUFFIX
    found = {name.removesuffix(end): dtype for name, dtype in stored.items() if name.endswith(end)}
    wrong = {
        "in the map but without _data": sorted(layers.keys() - found.keys()),
        "with _data but not in the map": sorted(found.keys() - layers.keys()),
        "of another type than the map says": sorted(
            name for name in layers.keys() & found.keys() if layers[name] != found[name]
        ),
    }
    complaints = [f"{len(names)} {words}: {truncate_names(names)}" for words, names in wrong.items() if names]
    if complaints:
        raise CheckpointError(f"{what}: {'; '.join(complaints)}")


def activation_scales(layers: QuantizationMap) -> set[str]:
    """Names that a quantised file may also have; they are 1.0 with activations none, and not read."""
    return {layer + end for layer in layers for end in ACTIVATION_SCALES}


def _is_known(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("weights") in FORMATS and entry.get("activations") == "none"
