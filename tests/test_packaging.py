"""pyproject.toml, requirements.txt, CI and the commands of earlier versions."""

import importlib
import os
import runpy
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


def make_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `make install` would run in a clone without .venv and without a GPU."""
    command = ["make", "--dry-run", "--always-make", "install", "GPU=", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [[], ["TORCH=cpu"], ["TORCH=cpu", "TORCH_INDEX=https://example.org/whl"]])
def test_make_says_what_it_downloads_before_it_does(arguments: list[str]) -> None:
    said, _, installed = make_install(*arguments).stdout.partition("pip install")
    assert "420 MB" in said
    assert "-r requirements.txt" in installed
    assert "--quiet" not in installed
    if not arguments:
        assert "make demo TORCH=cpu" in said
        assert "3.0 GB" in said
        assert "--index-url" not in installed
    index = "https://example.org/whl" if len(arguments) == 2 else "https://download.pytorch.org/whl/cpu"
    assert (f'--index-url {index} "torch==' in installed) == bool(arguments)


def test_make_refuses_other_builds_of_torch() -> None:
    done = make_install("TORCH=gpu")
    assert done.returncode == 2
    assert "TORCH is 'gpu'; cpu is allowed" in done.stderr


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
