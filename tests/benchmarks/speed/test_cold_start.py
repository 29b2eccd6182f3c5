"""Phases of a cold start, and what imports must not load."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed.cold_start import PHASES, PhaseTimer

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "diffusers", "librosa", "scipy", "av", "numpy", "PIL", "cog"}


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import wan", set()),
        ("import wan.configs", set()),
        ("from src.serving.cog.schema import openapi; openapi(open('predict.py').read())", set()),
        ("import numpy", {"numpy"}),
    ],
)
def test_import_loads_no_heavy_package(program: str, loaded: set[str]) -> None:
    command = [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(output.split()) == loaded


def test_nested_calls_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("benchmarks.speed.cold_start.time.monotonic", lambda: next(clock))
    timer = PhaseTimer()
    move = timer.timed("move", lambda: None)
    timer.timed("read", move)()
    move()
    assert timer.seconds == {**dict.fromkeys(PHASES, 0.0), "read": 1, "move": 1}
