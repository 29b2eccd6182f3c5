"""pyproject.toml, requirements.txt, CI and the commands of earlier versions."""

import importlib
import runpy
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


@pytest.mark.parametrize(
    "path", ["predict.py", "preview.py", "weights.py", "app/preview.py", "deploy/batch/__main__.py"]
)
def test_commands_start(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(
    ("alias", "target"),
    [("deploy.web_local", "deploy.web.local"), ("deploy.runpod_handler", "deploy.runpod_worker.handler")],
)
def test_old_modules_run_the_new_ones(alias: str, target: str) -> None:
    assert importlib.import_module(alias).main is importlib.import_module(target).main
