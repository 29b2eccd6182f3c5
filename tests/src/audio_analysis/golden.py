"""Reference numbers: where they lie, and how far ours are from them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[2] / "data" / "golden"))


def load(family: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of one file and the options in its metadata; skips the test without the file."""
    path = FOLDER / f"{family}.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}; GOLDEN_DIR names the folder of reference numbers")
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["config"])


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative L2 distance."""
    assert ours.shape == reference.shape
    return float(torch.dist(ours.double(), reference.double()) / reference.double().norm())
