"""The eager baseline computes the golden forward of the published network."""

from pathlib import Path

import pytest
import torch

from benchmarks.baseline.eager_transformer import EagerTransformer
from tests.golden.file import read_golden
from tests.golden.modules import transformer_config

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.mark.parametrize("persons", [1, 2])
def test_eager_forward_matches_golden(persons: int) -> None:
    golden = next(read_golden(path) for path in GOLDEN.iterdir() if path.name.startswith("dit_forward."))
    weights = {name: value.float() for name, value in golden.sibling("dit_weights").tensors.items()}
    model = EagerTransformer(weights, transformer_config(golden))
    inputs = {name: value.float() for name, value in golden.tensors.items()}
    names = [name for name in inputs if name.startswith(f"out_{persons}_")]
    assert names
    for name in names:
        timestep = torch.tensor(float(name.split("_")[2]))
        conditions = (inputs["context"], inputs["clip_fea"][0], inputs[f"audio_{persons}"], inputs["ref_target_masks"])
        velocity = model(inputs["x"], inputs["y"][0], timestep, *conditions)
        torch.testing.assert_close(velocity, inputs[name], rtol=1e-4, atol=1e-4)
