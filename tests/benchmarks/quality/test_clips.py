"""Test clips of the quality benchmarks, and the metrics of the renderer's own frames."""

from typing import Any

import numpy as np
import pytest

from benchmarks.quality.clips import CHUNK, ROWS, Row, draw_clip
from benchmarks.quality.lipsync import missed_goals, worst_values
from benchmarks.quality.metrics import compute_metrics
from benchmarks.quality.sync_metrics import correlation
from src.media.rates import SAMPLES_PER_FRAME
from training.mouths import opening_curve

BY_NAME = {row.name: row for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_clip_matches_its_row_and_is_deterministic(row: Row) -> None:
    clip, again = draw_clip(row, 0, 0), draw_clip(row, 0, 0)
    assert clip.scene == again.scene
    assert all(np.array_equal(a, b) for a, b in zip(clip.waveforms, again.waveforms, strict=True))
    assert [len(waveform) for waveform in clip.waveforms] == [row.num_frames * SAMPLES_PER_FRAME] * row.persons
    assert [len(opening) for opening in clip.openings] == [row.num_frames] * row.persons
    assert any(opening.any() for opening in clip.openings) == (row.audio != "none")
    assert clip.image().shape == (*clip.scene.size, 3)


@pytest.mark.parametrize("name", ["two add", "two add, swapped", "two para"])
def test_expected_opening_matches_the_audio_of_the_face(name: str) -> None:
    clip = draw_clip(BY_NAME[name], 0, 1)
    for waveform, opening in zip(clip.waveforms, clip.openings, strict=True):
        assert correlation(opening_curve(waveform), opening) > 0.9


@pytest.mark.parametrize(("name", "first"), [("two add", 0), ("two add, swapped", 1)])
def test_sequential_voices_follow_the_order_of_the_request(name: str, first: int) -> None:
    clip = draw_clip(BY_NAME[name], 0, 0)
    assert clip.active[first][0]
    assert not clip.active[1 - first][0]
    assert not (clip.active[0] & clip.active[1]).any()


def test_metrics_of_ground_truth_still_and_silent_videos() -> None:
    clips = [draw_clip(BY_NAME["two add"], 0, index) for index in range(6)]
    metrics = compute_metrics(clips, [clip.ground_truth() for clip in clips])
    assert metrics["own"] > 0.98
    assert metrics["lag"] == 0
    assert metrics["silent_mean"] < 0.01
    still = compute_metrics(clips, [np.repeat(clip.image()[None], CHUNK, 0) for clip in clips])
    assert still["own"] == 0
    assert still["drift"] < 1e-6
    silent = [draw_clip(BY_NAME["two silent"], 0, 0)]
    assert compute_metrics(silent, [silent[0].ground_truth()])["own"] is None


def test_worst_values_and_missed_goals() -> None:
    good = {"own": 0.95, "other": 0.05, "lag": 0, "shuffled": 0.0, "silent_mean": 0.0, "silent_std": 0.0}
    results: dict[str, dict[str, Any]] = {
        "one": {"model": {**good, "own": 0.1, "other": None}},
        "two add": {"model": {**good, "own": 0.91, "lag": -1}},
        "two para": {"model": {**good, "other": -0.2}},
        "two silent": {"model": dict.fromkeys(good)},
    }
    assert worst_values(results, BY_NAME) == (0.91, -0.2, -1)
    assert [goal.partition(":")[0] for goal in missed_goals(results)] == ["one", "two para"]
