"""The metric that names the form of the weights."""

from copy import copy
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from app.metrics import stored_weights
from wan import MultiTalkPipeline
from wan.checkpoint import Precision
from wan.modules.block_formats import BlockQuantizedLinear
from wan.modules.quantized import QuantizedLinear

FP8 = QuantizedLinear(32, 4, False, torch.float8_e4m3fn, False)
INT8 = QuantizedLinear(32, 4, False, torch.int8, False)
GGUF = BlockQuantizedLinear(32, 4, False, "Q4_0")


@pytest.mark.parametrize(
    ("layers", "precision", "expected"),
    [
        ([], None, "bfloat16"),
        ([], "bf16", "bfloat16"),
        ([FP8, copy(FP8)], "fp8", "float8_e4m3fn in 2 layers"),
        ([FP8], None, "float8_e4m3fn in 1 layers"),
        ([FP8], "int8", "float8_e4m3fn in 1 layers (the form of the files; MULTITALK_DTYPE is int8)"),
        ([INT8, GGUF], "int8", "Q4_0 in 1 layers, int8 in 1 layers (the form of the files; MULTITALK_DTYPE is int8)"),
    ],
)
def test_form_of_the_weights(layers: list[nn.Module], precision: Precision | None, expected: str) -> None:
    transformer = nn.ModuleList(layers)
    transformer.dtype = torch.bfloat16  # type: ignore[assignment]
    pipeline = SimpleNamespace(models=SimpleNamespace(transformer=transformer))
    assert stored_weights(cast(MultiTalkPipeline, pipeline), precision) == expected
