"""The quick run on a machine that has few packages."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.stages import ESTIMATED_SECONDS, QUICK_STAGES
from tests.conftest import ROOT

MISSING = ("librosa", "soxr", "soundfile", "av", "cog", "pyloudnorm", "tenacity", "jsonschema", "starlette")
"""Packages of the project that such a machine lacks."""
WITHOUT_PACKAGES = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({MISSING}))
sys.argv[0] = "benchmarks.gpu"
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=False)
"""


def run_quick(output: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """Stages of a tiny quick run without those packages and without git."""
    command = [sys.executable, "-c", WITHOUT_PACKAGES, "--tiny", "--quick", "--output", str(output), *arguments]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stages: dict[str, dict[str, object]] = json.loads(output.read_text())["stages"]
    return stages


def test_quick_run_needs_few_packages(tmp_path: Path) -> None:
    names = [name for name in QUICK_STAGES if name != "tests"]
    stages = run_quick(tmp_path / "gpu.json", "--stages", ",".join(names))
    assert list(stages) == names
    assert all("results" in stage for stage in stages.values())
    clip = stages["stream"]["results"]
    assert isinstance(clip, dict)
    assert clip["all memory"]["frames"] == 6
    assert {"condition 1", "denoise 1", "decode 2"} <= clip["all memory"]["seconds"].keys()


def test_stages_beyond_the_budget_are_skipped(tmp_path: Path) -> None:
    stages = run_quick(tmp_path / "gpu.json", "--budget", "5")
    assert list(stages) == list(QUICK_STAGES)
    assert all("skipped" in stage for stage in stages.values())


def test_the_quick_stages_fit_the_budget_of_the_documentation() -> None:
    assert ESTIMATED_SECONDS.keys() == QUICK_STAGES.keys()
    assert sum(ESTIMATED_SECONDS.values()) <= 540
