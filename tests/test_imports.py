"""What importing costs. The order of imports is held by import-linter: `make check`, contracts in pyproject.toml."""

import subprocess
import sys

from tests.conftest import ROOT

HEAVY = {"torch", "transformers", "diffusers", "librosa", "scipy", "av", "numpy", "PIL", "cog"}
STEPS = [
    ("import weights, src.media, src.errors, wan.configs", HEAVY),
    ("from src.serving.cog.client import main", HEAVY),
    ("from src.serving.cog.schema import openapi; openapi(open('predict.py').read())", HEAVY),
    ("import app", {"torch", "av", "transformers", "diffusers", "librosa"}),
    ("from wan import MultiTalkPipeline", {"av", "scipy", "transformers", "diffusers", "librosa"}),
    ("from src.audio_analysis.wav2vec2 import Wav2Vec2Model", set()),
]
"""Imports that follow each other in one process, and the modules that each does not load."""
PROGRAM = """
import os, sys
before = dict(os.environ)
for statement, absent in {steps!r}:
    exec(statement)
    assert not absent & set(sys.modules), (statement, absent & set(sys.modules))
    assert dict(os.environ) == before, (statement, "changed the environment")
    torch = sys.modules.get("torch")
    assert torch is None or not torch.cuda.is_initialized(), (statement, "initialized CUDA")
"""


def test_modules_that_an_import_does_not_load() -> None:
    command = [sys.executable, "-c", PROGRAM.format(steps=STEPS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_are_named_after_what_they_hold() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    vague = {"utils", "helpers", "common", "misc"}
    assert [file for file in files.split() if vague & set(file.removesuffix(".py").split("/"))] == []
