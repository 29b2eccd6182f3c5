"""Phases of a cold start."""

import pytest

from benchmarks.speed.cold_start import PHASES, PhaseTimer


def test_nested_calls_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("benchmarks.speed.cold_start.time.monotonic", lambda: next(clock))
    timer = PhaseTimer()
    move = timer.timed("move", lambda: None)
    timer.timed("read", move)()
    move()
    assert timer.seconds == {**dict.fromkeys(PHASES, 0.0), "read": 1, "move": 1}
