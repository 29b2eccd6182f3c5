"""The rows that lips are measured on."""

from typing import Any

import numpy as np
import pytest

from benchmarks.quality.clips import CHUNK, MOTION, ROWS, Row, draw_clip
from benchmarks.quality.lipsync import LIMITS, misses, worst
from benchmarks.quality.metrics import measure
from benchmarks.quality.sync_metrics import correlation
from src.media.rates import SAMPLES_PER_FRAME
from training.mouths import opening_track

BY_NAME = {row.name: row for row in ROWS}


def test_rows_hold_what_is_promised() -> None:
    assert len(BY_NAME) == len(ROWS)
    two = {(row.mode, row.boxes) for row in ROWS if row.persons == 2}
    assert two >= {(mode, boxes) for mode in ("add", "para") for boxes in ("default", "given", "swapped")}
    assert {row.aspect for row in ROWS if row.persons == 1} == {"wide", "square", "upright"}
    assert {row.chunks for row in ROWS if row.persons == 2} == {1, 5}
    assert BY_NAME["two add, 5 chunks"].frames == CHUNK + 4 * (CHUNK - MOTION)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_clip_fits_its_row(row: Row) -> None:
    clip = draw_clip(row, 0, 0)
    again = draw_clip(row, 0, 0)
    assert clip.scene == again.scene
    assert all(np.array_equal(a, b) for a, b in zip(clip.tracks, again.tracks, strict=True))
    assert len(clip.tracks) == len(clip.openings) == row.persons
    assert all(len(track) == row.frames * SAMPLES_PER_FRAME for track in clip.tracks)
    assert all(len(opening) == row.frames for opening in clip.openings)
    assert any(opening.any() for opening in clip.openings) == (row.sound != "none")
    assert clip.picture().shape == (*clip.scene.size, 3)


def test_what_is_drawn_is_what_is_heard() -> None:
    for name in ("two add", "two add, swapped", "two para"):
        clip = draw_clip(BY_NAME[name], 0, 1)
        for track, opening in zip(clip.tracks, clip.openings, strict=True):
            assert correlation(opening_track(track), opening) > 0.9


def test_voices_take_turns_in_the_requests_order() -> None:
    for name, first in (("two add", 0), ("two add, swapped", 1)):
        clip = draw_clip(BY_NAME[name], 0, 0)
        assert clip.floors[first][0]
        assert not clip.floors[1 - first][0]
        assert not (clip.floors[0] & clip.floors[1]).any()


def test_the_renderers_own_figures_are_good() -> None:
    clips = [draw_clip(BY_NAME["two add"], 0, index) for index in range(6)]
    figures = measure(clips, [clip.truth() for clip in clips])
    assert figures["own"] > 0.98
    assert figures["lag"] == 0
    assert figures["still_mean"] < 0.01
    dead = measure(clips, [np.repeat(clip.picture()[None], CHUNK, 0) for clip in clips])
    assert dead["own"] == 0
    assert dead["drift"] < 1e-6
    silent = [draw_clip(BY_NAME["two silent"], 0, 0)]
    assert measure(silent, [silent[0].truth()])["own"] is None


def test_the_worst_row_is_named() -> None:
    good = {"own": 0.95, "other": 0.05, "lag": 0, "shuffled": 0.0, "still_mean": 0.0, "still_deviation": 0.0}
    rows: dict[str, dict[str, Any]] = {
        "one": {"model": {**good, "own": 0.1, "other": None}},
        "two add": {"model": {**good, "own": 0.91, "lag": -1}},
        "two para": {"model": {**good, "other": -0.2}},
        "two silent": {"model": dict.fromkeys(good)},
    }
    assert worst(rows, BY_NAME) == (0.91, -0.2, -1)
    assert [miss.partition(":")[0] for miss in misses(rows)] == ["one", "two para"]
    assert LIMITS["other"] == 0.15
