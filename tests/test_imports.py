"""What importing costs. The order of imports is held by import-linter: `make check`, contracts in pyproject.toml."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh process has loaded after a statement, which must not change the environment."""
    program = f"""
import os, sys
before = dict(os.environ)
{statement}
assert dict(os.environ) == before, "the environment was changed"
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized(), "CUDA was initialized"
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import wan", {"transformers", "diffusers", "librosa", "av", "torch"}),
        ("from wan import MultiTalkPipeline", {"transformers", "diffusers", "librosa", "av", "scipy"}),
        ("import wan.configs", {"transformers", "diffusers", "librosa", "av"}),
        ("import weights", {"torch", "av", "transformers", "numpy"}),
        ("import src.media, src.errors", {"torch", "av", "numpy"}),
        ("from src.serving.cog.client import main", {"torch", "av", "numpy", "cog"}),
        ("import src.serving.cog.schema", {"torch", "av", "numpy", "cog"}),
        ("import app", {"torch", "av"}),
    ],
)
def test_modules_that_an_import_does_not_load(statement: str, absent: set[str]) -> None:
    assert sorted(absent & modules_after(statement)) == []


@pytest.mark.parametrize(
    "module",
    [
        "from wan import MultiTalkPipeline",
        "from wan.configs import WAN_CONFIGS",
        "from src.audio_analysis.wav2vec2 import Wav2Vec2Model",
    ],
)
def test_imports_that_callers_of_the_reference_use(module: str) -> None:
    modules_after(module)


def test_modules_are_named_after_what_they_hold() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    vague = {"utils", "helpers", "common", "misc"}
    assert [file for file in files.split() if vague & set(file.removesuffix(".py").split("/"))] == []
