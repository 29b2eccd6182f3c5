"""A small predictor, which tests Cog's server without the model."""

from pathlib import Path

import pytest

PREDICTOR = """
import sys
import time
from pathlib import Path as LocalPath
from typing import Optional

import sibling
from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    def setup(self) -> None:
        print("setting up", sibling.NAME)

    def predict(
        self,
        image: Path = Input(description="A file."),
        steps: int = Input(description="Fiftieths of a second.", default=0, ge=0, le=1000),
        strength: float = Input(description="A number.", default=0.5),
        loud: bool = Input(description="A switch.", default=False),
        mode: str = Input(description="A choice.", default="add", choices=["add", "para"]),
        note: Optional[str] = Input(description="A text.", default=None),
    ) -> Path:
        print(f"got {steps!r} {strength!r} {loud!r} {mode} {note!r}", flush=True)
        for step in range(steps):
            print(f"step {step}", flush=True)
            time.sleep(0.02)
        if note == "fail":
            raise ValueError("note: 'fail' is not allowed")
        if note == "crash":
            import os
            os._exit(3)
        output = LocalPath("answer.bin").absolute()
        output.write_bytes(LocalPath(image).read_bytes()[::-1])
        self.record_metric("size", output.stat().st_size)
        return Path(output)
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the predictor and a module that it imports."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "predict.py").write_text(PREDICTOR)
    (folder / "sibling.py").write_text('NAME = "sibling"\n')
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file to send."""
    path = tmp_path / "voice.wav"
    path.write_bytes(b"abc")
    return path
