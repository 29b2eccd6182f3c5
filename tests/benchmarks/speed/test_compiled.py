"""The comparison of a block's forms, at the small model's size."""

import pytest
import torch

from benchmarks.gpu.page import sections
from benchmarks.report.environment import environment
from benchmarks.speed.compiled import compare
from wan.configs import ModelConfig
from wan.types import VideoSize

# So large that the small model's first frames have more tokens than a text, as the published model's have.
SIZES = [VideoSize(frames=5, height=height, width=width) for height, width in ((416, 448), (448, 480), (432, 416))]


@pytest.mark.gpu
def test_forms_agree_and_sizes_share_what_is_compiled(puppet: ModelConfig) -> None:
    """Traced by torch.compile without being compiled."""
    result = compare(puppet, SIZES, persons=2, repeats=1, backend="eager")
    rows = list(result["sizes"].values())
    assert [row["graphs"] for row in rows] == [1, 1, 1]
    for row in rows:
        assert row["plain"]["error"] == 0
        assert row["compiled"]["error"] < 1e-5
        assert ("triton" in row) == torch.cuda.is_available()
    assert result["attention"]["self"] != ""
    assert {"name"} <= result["device"].keys()
    text = "\n".join(sections(None, {**environment("benchmarks.speed.compiled"), **result}))
    assert [line.split("|")[1].strip() for line in text.splitlines()[-3:]] == ["416x448", "448x480", "432x416"]
    assert text.endswith("| 1 |")
