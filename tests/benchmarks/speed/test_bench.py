"""All rungs of the ladder compute the same step, a plain clip is the same clip, and the page is made from the JSON."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.baseline.eager_clip import in_plain_form
from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import ROWS, draw_clip
from benchmarks.report import performance
from benchmarks.report.environment import RESULTS
from benchmarks.speed import ablation, bench
from benchmarks.speed.peak_throughput import PeakThroughput
from wan.configs import WAN_CONFIGS
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

SIZE = VideoSize(frames=5, height=32, width=64)
CEILINGS = PeakThroughput(product=1e11, product_fp8=None, copy=1e10, upload=None)


@pytest.fixture(scope="module")
def model() -> MultiTalkTransformer:
    torch.manual_seed(0)
    return MultiTalkTransformer(replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=2)).eval()


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("scales", bench.SCALES.values(), ids=bench.SCALES)
@torch.inference_mode()
def test_every_rung_computes_the_same_step(
    model: MultiTalkTransformer, scales: tuple[float, float], persons: int
) -> None:
    rungs = ablation.rungs(model, ablation.draw_clip(model.config, SIZE, persons), scales)
    plain = next(iter(rungs.values()))()
    assert len(rungs) == len(ablation.RUNGS) + 2
    for name, step in rungs.items():
        assert ablation.difference(step(), plain) < 1e-5, name
        assert ablation.difference(step(), plain) < 1e-5, f"{name}, a second time"


@torch.inference_mode()
def test_what_a_rung_leaves_out(model: MultiTalkTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    whole = ablation.PlainTransformer.labels

    def counted(*given: Any) -> torch.Tensor:
        calls.append("map")
        return whole(*given)

    monkeypatch.setattr(ablation.PlainTransformer, "labels", counted)
    rungs = ablation.rungs(model, ablation.draw_clip(model.config, SIZE, 2), bench.SCALES["quality"])
    maps = {}
    for name, step in rungs.items():
        calls.clear()
        step()
        maps[name] = len(calls)
    blocks = model.config.num_layers
    assert list(maps.values())[:4] == [3 * blocks, 3 * blocks, 2 * blocks, 0]
    assert not any(list(maps.values())[3:])


@torch.inference_mode()
def test_rows_have_floors(model: MultiTalkTransformer) -> None:
    rows = bench.steps(model, SIZE, (1.0, 1.0), CEILINGS, repeats=1)
    assert rows[0]["what"] == "the plain form"
    assert all(row["over_floor"] == pytest.approx(row["median_s"] / row["floor_s"]) for row in rows)


def test_a_plain_clip_is_the_same_clip() -> None:
    puppet = Puppet()
    puppet.use_lora_of("fast")
    clip = draw_clip(next(row for row in ROWS if row.name == "two add"), 1, 0)
    options = puppet.options("fast", sampling_steps=1)
    ours = puppet.take(clip, options).frames
    with in_plain_form(puppet.pipeline):
        plain = puppet.take(clip, options).frames
    assert np.abs(ours.astype(int) - plain).max() <= 1


def test_the_page_is_made_from_the_committed_results() -> None:
    assert (performance.DOCS / performance.PAGE).read_text() == performance.page(performance.read(RESULTS))
