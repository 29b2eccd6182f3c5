"""Run `test_kernels.py` on the CPU in Triton's interpreter, which must be enabled before kernels are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def test_kernels_match_eager_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "test_kernels.py"]
    command[-1] = str(Path(__file__).with_name(command[-1]))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
