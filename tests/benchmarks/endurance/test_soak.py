"""The judgement of the soak; the soak itself is long."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.endurance.soak import LIMIT_MB, Account, growth, judge, left_behind, report


def account(slope: float, *wrong: str) -> Account:
    """Memory that grows by `slope` MB a hundred requests, with noise."""
    megabytes = [900.0 + slope * number / 100 + (number % 7) for number in range(500)]
    seconds = [number / 100 for number in range(1, 101)]
    return Account(endings=Counter(good=100), seconds=seconds, megabytes=megabytes, wrong=list(wrong))


@pytest.mark.parametrize("slope", [0.0, 0.8, 1.2, 5.0])
def test_growth_is_found_below_the_noise(slope: float) -> None:
    assert growth(account(slope).megabytes) == pytest.approx(slope, abs=0.05)
    assert bool(judge(account(slope), [])) is (slope > LIMIT_MB)


def test_what_else_is_wrong() -> None:
    problems = judge(account(0, "request 3 was to be good and was failed"), ["a.part"])
    assert problems == ["request 3 was to be good and was failed", "a.part was left behind"]


def test_figures() -> None:
    figures = report(account(0), 500, 3.21)
    assert figures["seconds_p50"] == pytest.approx(0.5, abs=0.01)
    assert figures["seconds_p99"] == pytest.approx(1.0, abs=0.01)
    assert figures["minutes"] == 3.2


def test_the_last_video_is_not_left_behind() -> None:
    first = {Path("s/multitalk-a"), Path("s/multitalk-a/output.mp4")}
    assert left_behind(first) == []
    assert left_behind(set()) == []
    assert left_behind(first | {Path("s/multitalk-b"), Path("s/multitalk-b/output.mp4")}) == [
        "multitalk-b",
        "output.mp4",
    ]
    assert left_behind({Path("s/multitalk-a"), Path("s/multitalk-a/.output.1.part")}) == [
        ".output.1.part",
        "multitalk-a",
    ]
