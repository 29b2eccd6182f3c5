"""Eager, compiled and Triton variants of a block agree, at the size of the built-in model."""

import pytest
import torch

from benchmarks.speed.compiled import compare
from wan.configs import ModelConfig
from wan.types import VideoSize

SIZES = [VideoSize(frames=5, height=height, width=width) for height, width in ((416, 448), (448, 480), (432, 416))]
"""Large enough that the first frame has more tokens than the text, as with the 14B model."""


@pytest.mark.gpu
def test_variants_agree_and_sizes_share_one_graph(puppet: ModelConfig) -> None:
    """The backend `eager` of torch.compile traces the graph without compiling it."""
    result = compare(puppet, SIZES, persons=2, repeats=1, backend="eager")
    for row in result["sizes"].values():
        assert row["graphs"] == 1
        assert row["eager"]["relative_error"] == 0
        assert row["compiled"]["relative_error"] < 1e-5
        assert ("triton" in row) == torch.cuda.is_available()
