"""Every variant of the ablation, and the eager baseline of a clip, compute what the optimized model computes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.baseline.eager_clip import eager_baseline
from benchmarks.baseline.eager_transformer import EagerTransformer
from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import ROWS, draw_clip
from benchmarks.speed import ablation
from benchmarks.speed.bench import GUIDANCE_SCALES
from wan.configs import WAN_CONFIGS
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

SIZE = VideoSize(frames=5, height=32, width=64)


@pytest.fixture(scope="module")
def model() -> MultiTalkTransformer:
    torch.manual_seed(0)
    return MultiTalkTransformer(replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=2)).eval()


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("scales", GUIDANCE_SCALES.values(), ids=GUIDANCE_SCALES)
@torch.inference_mode()
def test_variants_compute_the_same_step(model: MultiTalkTransformer, scales: tuple[float, float], persons: int) -> None:
    steps = ablation.ablation_steps(model, ablation.draw_inputs(model.config, SIZE, persons), scales)
    reference = steps[ablation.EAGER]()
    for name, step in steps.items():
        assert ablation.relative_error(step(), reference) < 1e-5, name
        assert ablation.relative_error(step(), reference) < 1e-5, f"{name}, with cached constants"


@torch.inference_mode()
def test_variants_skip_label_maps(model: MultiTalkTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    eager_labels = EagerTransformer.labels

    def count_labels(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return eager_labels(*args)

    monkeypatch.setattr(EagerTransformer, "labels", count_labels)
    steps = ablation.ablation_steps(model, ablation.draw_inputs(model.config, SIZE, 2), GUIDANCE_SCALES["quality"])
    counts = []
    for step in steps.values():
        calls = 0
        step()
        counts.append(calls)
    blocks = model.config.num_layers
    assert counts == [3 * blocks, 3 * blocks, 2 * blocks, 0, 0, 0, 0]


def test_eager_baseline_generates_the_same_clip() -> None:
    puppet = Puppet()
    puppet.set_preset_lora("fast")
    clip = draw_clip(next(row for row in ROWS if row.name == "two add"), 1, 0)
    options = puppet.options("fast", sampling_steps=1)
    optimized = puppet.generate(clip, options).frames
    with eager_baseline(puppet.pipeline):
        eager = puppet.generate(clip, options).frames
    assert np.abs(optimized.astype(int) - eager).max() <= 1
