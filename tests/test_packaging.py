"""pyproject.toml, requirements.txt, CI and the commands of earlier versions."""

import re
import subprocess
import sys
import tomllib

import pytest

from scripts import compile_requirements
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_requirements_are_compiled_from_pyproject() -> None:
    assert list(compile_requirements.problems()) == [], "run `python -m scripts.compile_requirements`"


def test_requirements_name_no_index() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "://" in line or line.startswith("-")] == []


def test_a_missing_and_a_superfluous_pin_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = compile_requirements.pins()
    changed = {name: pin for name, pin in pins.items() if name != "fsspec"} | {"six": pins["numpy"]}
    monkeypatch.setattr(compile_requirements, "pins", lambda: changed)
    assert list(compile_requirements.problems()) == ["fsspec is needed and not pinned", "six is pinned and not needed"]


def test_versions_agree() -> None:
    version = PROJECT["version"]
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_workflow_runs_ci() -> None:
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    ["predict.py --help", "preview.py --help", "weights.py --help", "-m app.preview --help", "-m deploy.batch --help"],
)
def test_commands_start(command: str) -> None:
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"usage: ", done.stdout)


@pytest.mark.parametrize(
    ("alias", "target"),
    [("deploy.web_local", "deploy.web.local"), ("deploy.runpod_handler", "deploy.runpod_worker.handler")],
)
def test_old_modules_run_the_new_ones(alias: str, target: str) -> None:
    program = f"import {alias} as alias, {target} as target; assert alias.main is target.main"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
