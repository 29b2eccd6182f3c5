"""The calibration of TeaCache: what it records, and that a recorder leaves the model as it was."""

import torch

from benchmarks.baseline.puppet import Puppet
from benchmarks.calibration.residual_recorder import Evaluation, recording
from benchmarks.calibration.teacache import changes
from benchmarks.quality.clips import ROWS, draw_clip


def test_each_step_is_recorded_once() -> None:
    puppet = Puppet()
    model = puppet.pipeline.models.transformer
    options = puppet.options("fast", sampling_steps=3, text_guide_scale=1.0, audio_guide_scale=1.0)
    with recording(model) as record:
        puppet.take(draw_clip(ROWS[0], 0, 0), options)
    assert len(record) == 3
    assert "forward_passes" not in vars(model)
    found = changes(record)
    assert len(found) == 2
    assert all(change > 0 for pair in found for change in pair)


def test_changes_are_relative() -> None:
    ones = torch.ones(4)
    record = [Evaluation(ones, 2 * ones), Evaluation(1.5 * ones, 3 * ones)]
    assert changes(record) == [(0.5, 0.5)]
