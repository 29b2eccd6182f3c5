"""Benchmarks that promise something fail where it is not kept."""

from dataclasses import replace

import pytest

from benchmarks.quality import precision
from benchmarks.speed import load
from wan.configs import ModelConfig
from wan.types import VideoSize


@pytest.mark.parametrize(("ratio", "places"), [(1.5, []), (1.51, ["converted, dropped"])])
def test_loading_beyond_its_limit_is_told(ratio: float, places: list[str]) -> None:
    def measured(dropped: float) -> dict[str, dict[str, dict[str, float]]]:
        return {"warm": {load.OURS: {"ratio": 1.0}}, "dropped": {load.OURS: {"ratio": dropped}}}

    assert list(load.beyond({"published": measured(1.2), "converted": measured(ratio)})) == places


def test_errors_of_precisions(puppet: ModelConfig) -> None:
    config = replace(puppet.transformer, num_layers=2)
    errors = precision.compare(config, VideoSize(frames=5, height=32, width=32))
    found = {name: errors[name]["blocks against float32"] for name in precision.PRECISIONS}
    assert 0 < found["bf16"] < found["int8"] < found["fp8"] < found[precision.PRODUCTS]
    assert precision.beyond(errors) == {}
    errors["int8"]["blocks against float32"] = 0.5
    assert precision.beyond(errors) == {"int8": 0.5}
