"""The plain form computes what the published network computes, so that it is a fair thing to be compared with."""

from pathlib import Path

import pytest
import torch

from benchmarks.baseline.eager_transformer import PlainTransformer
from tests.golden.file import read_golden
from tests.golden.modules import transformer_config

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.mark.parametrize("persons", [1, 2])
def test_the_plain_form_agrees_with_the_golden_forward(persons: int) -> None:
    golden = next(read_golden(path) for path in GOLDEN.iterdir() if path.name.startswith("dit_forward."))
    weights = {name: value.float() for name, value in golden.sibling("dit_weights").tensors.items()}
    model = PlainTransformer(weights, transformer_config(golden))
    inputs = {name: value.float() for name, value in golden.tensors.items()}
    names = [name for name in inputs if name.startswith(f"out_{persons}_")]
    assert names
    for name in names:
        given = (inputs["context"], inputs["clip_fea"][0], inputs[f"audio_{persons}"], inputs["ref_target_masks"])
        out = model(inputs["x"], inputs["y"][0], torch.tensor(float(name.split("_")[2])), *given)
        torch.testing.assert_close(out, inputs[name], rtol=1e-4, atol=1e-4)
