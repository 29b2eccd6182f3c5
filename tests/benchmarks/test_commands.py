"""Smoke test of every benchmark command with its smallest arguments."""

import importlib
import json
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "speed.bench": "--tiny --repeats 1 --output {result}",
    "speed.cold_start": "--repeats 1 --output {result}",
    "speed.forward": "--repeats 1 --output {result}",
    "speed.load": "--layers 1 --repeats 1 --output {result}",
    "quality.contact_sheet": "{folder}/sheet.png --weights {folder}/none",
    "quality.lipsync": "--clips 1 --rows one --steps 1 --no-ablation --output {result}",
    "quality.precision": "--tiny --output {result}",
    "quality.quality_cost": "--clips 1 --long-clips 0 --groups color --results {folder} --docs {folder}",
    "quality.seams": "--clips 1 --steps 1 --output {result}",
    "calibration.magcache": "--clips 1 --steps 2",
    "calibration.teacache": "--clips 1",
    "endurance.memory": "--one 1",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tmp_path / "result.json"
    arguments = COMMANDS[name].format(folder=tmp_path, result=result).split()
    monkeypatch.setenv("MULTITALK_MODEL", "multitalk-puppet")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    importlib.import_module(f"benchmarks.{name}").main()
    if str(result) in arguments:
        assert json.loads(result.read_text())["command"].startswith(f"python -m benchmarks.{name} ")
