"""Every command: its help, its exit statuses, a Python without packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAUNCHED = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("training", "benchmarks", "deploy", "app", "examples", "scripts", "tests/golden")
    for path in (ROOT / folder).rglob("*.py")
    if "    launch(" in path.read_text("utf-8")
)
"""Commands that parse their arguments before they import anything but the standard library."""
TOP_LEVEL = ["predict.py", "preview.py", "weights.py"]
WITHOUT_PACKAGES = [sys.executable, "-S", "-E"]


def module(path: str) -> list[str]:
    """The arguments of Python that run a file of the repository as documented."""
    if "/" not in path:
        return [path]
    return ["-m", path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def is_one_line(text: str) -> bool:
    return text.startswith("error: ") and text.count("\n") == 1


@pytest.mark.parametrize("path", LAUNCHED)
def test_help_and_wrong_flags_need_no_package(path: str) -> None:
    shown = run(*WITHOUT_PACKAGES, *module(path), "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: python ")
    refused = run(*WITHOUT_PACKAGES, *module(path), "--no-such-flag")
    assert refused.returncode == 2
    assert is_one_line(refused.stderr), refused.stderr


@pytest.mark.parametrize("path", TOP_LEVEL)
def test_a_missing_package_is_one_sentence(path: str) -> None:
    done = run(*WITHOUT_PACKAGES, path)
    assert done.returncode == 1
    assert is_one_line(done.stderr), done.stderr
    assert "is missing in" in done.stderr
    assert ".venv" in done.stderr


@pytest.mark.parametrize("path", TOP_LEVEL)
def test_wrong_flags_have_exit_status_2(path: str) -> None:
    done = run(sys.executable, path, "--no-such-flag")
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr


def test_every_command_is_launched() -> None:
    """Except aliases, and what the command line of another program or a parent process starts."""
    others = {f"src/serving/cog/{name}.py" for name in ("schema", "server", "gateway_server", "coglet")}
    others |= {*TOP_LEVEL, "deploy/web_local.py", "deploy/runpod_handler.py"}
    tracked = run("git", "ls-files", "*.py", ":!tests").stdout.split()
    files = ["tests/golden/__main__.py", *(path for path in tracked if not path.endswith("worker.py"))]
    commands = {path for path in files if '\nif __name__ == "__main__":' in (ROOT / path).read_text("utf-8")}
    assert sorted(commands - others) == LAUNCHED


BENCHMARKS = {
    "speed.bench": ["--repeats 0", "--output README.md"],
    "speed.forward": ["--repeats -1", "--repeats nan"],
    "speed.load": ["--layers 0", "--folder no/such"],
    "quality.lipsync": ["--clips 0", "--jobs 0", "--output README.md", "--color 2", "--shift nan", "--lora no/such"],
    "quality.seams": ["--steps 0", "--steps 1001", "--seed -1"],
    "quality.quality_cost": ["--clips 0", "--docs src", "--weights no/such"],
    "quality.contact_sheet": ["README.md", "new.png --columns 0", "new.png --video no/such"],
    "report.performance": ["--results no/such", "--docs src"],
    "calibration.magcache": ["no/such", "--clips 0"],
    "endurance.soak": ["--requests 0", "--output README.md"],
    "gpu": ["--tiny", "--device -1", "--folder no/such"],
}


@pytest.mark.parametrize(
    ("command", "arguments"), [(command, each) for command, lines in BENCHMARKS.items() for each in lines]
)
def test_benchmarks_refuse_senseless_values(command: str, arguments: str) -> None:
    done = run(*WITHOUT_PACKAGES, "-m", f"benchmarks.{command}", *arguments.split())
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr


@pytest.mark.parametrize(
    "arguments", ["benchmarks.quality.lipsync --rows nine", "benchmarks.gpu --stages x --output y"]
)
def test_names_known_only_to_the_module_are_checked_too(arguments: str) -> None:
    done = run(sys.executable, "-m", *arguments.split())
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr


TRAINING = {
    "vae": ["new --images 0 --clips 0", "new --images -1", "new --clips nan", "README.md"],
    "encoders": ["new --steps 0", "new --encoders smell"],
    "dataset": ["no/such new", ". new --clips 2", ". new --clips 0", ". new --shards 0", ". new --first -1"],
    "transformer": [". no/such", ". . --lr nan", ". . --lr 0", ". . --batch 0", ". . --steps 2.5", ". . --seed -1"],
    "finetune_decoder": ["no/such", ". --steps -5"],
    "distil": [". . README.md", ". . new --steps 0", ". . new --batch -1"],
    "export": [". src", "no/such new"],
    "random_weights": ["src", "new --model none", "new --seed 3e9"],
}


@pytest.mark.parametrize(
    ("command", "arguments"), [(command, each) for command, lines in TRAINING.items() for each in lines]
)
def test_training_refuses_senseless_values(command: str, arguments: str) -> None:
    done = run(*WITHOUT_PACKAGES, "-m", f"training.{command}", *arguments.split())
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr


@pytest.mark.parametrize("command", ["finetune_decoder", "export"])
def test_training_names_the_run_that_is_missing(command: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path)] + ([str(tmp_path / "new")] if command == "export" else [])
    done = run(sys.executable, "-m", f"training.{command}", *arguments)
    assert done.returncode == 1
    assert is_one_line(done.stderr), done.stderr
    assert "state.pt" in done.stderr


@pytest.mark.parametrize("arguments", ["verify no/such", "convert no/such new", "pack no/such new", "pack . README.md"])
def test_weights_refuses_folders_that_do_not_exist(arguments: str) -> None:
    done = run(sys.executable, "weights.py", *arguments.split())
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr
