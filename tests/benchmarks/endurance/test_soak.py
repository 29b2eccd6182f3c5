"""Conditions checked by the soak test; the test itself takes minutes."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.endurance.soak import MAX_GROWTH_MB, Record, find_problems, growth_per_100, leftover_files, summarize


def make_record(slope: float, *unexpected: str) -> Record:
    """Memory that grows by `slope` MB per 100 requests, with noise."""
    megabytes = [900.0 + slope * index / 100 + (index % 7) for index in range(500)]
    seconds = [index / 100 for index in range(1, 101)]
    return Record(outcomes=Counter(good=100), seconds=seconds, megabytes=megabytes, unexpected=list(unexpected))


@pytest.mark.parametrize("slope", [0.0, 0.8, 1.2, 5.0])
def test_growth_is_detected_despite_noise(slope: float) -> None:
    assert growth_per_100(make_record(slope).megabytes) == pytest.approx(slope, abs=0.05)
    assert bool(find_problems(make_record(slope), [])) is (slope > MAX_GROWTH_MB)


def test_unexpected_outcomes_and_leftover_files_are_problems() -> None:
    assert len(find_problems(make_record(0, "request 3: expected good, got failed"), ["a.part"])) == 2


def test_summary_has_percentiles() -> None:
    document = summarize(make_record(0), 500, 3.21)
    assert document["seconds_p50"] == pytest.approx(0.5, abs=0.01)
    assert document["seconds_p99"] == pytest.approx(1.0, abs=0.01)


def test_only_one_video_may_remain() -> None:
    first, second = ({Path(f"s/output-{x}"), Path(f"s/output-{x}/output.mp4")} for x in "ab")
    assert leftover_files(set()) == leftover_files(first) == []
    assert leftover_files(first | second) == ["output-b", "output.mp4"]
    assert leftover_files({Path("s/output-a/.output.1.part")}) == [".output.1.part"]
