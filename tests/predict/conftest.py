"""One real server with the small model, for every test of the predictor."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weights
from src.serving.cog.server import Server
from tests.conftest import ROOT
from tests.predict.uploads import plain, uri, voice

MAX_SECONDS = 30
MODEL = "multitalk-puppet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server, the readable lines of its log with the time of each, and the folder for its temporary files."""

    server: Server
    lines: list[tuple[float, str]]
    scratch: Path

    def succeed(self, **inputs: Any) -> dict[str, Any]:
        """The answer to a good request that `inputs` change; None leaves one out."""
        changed = {name: value for name, value in (good() | inputs).items() if value is not None}
        answer = self.server.predict(changed)
        assert answer["status"] == "succeeded", answer.get("error")
        return answer

    def wait_for_line(self, start: str, after: int = 0, seconds: float = 20.0) -> None:
        """Return once a line that begins with `start` is in the log, at or behind position `after`."""
        deadline = time.monotonic() + seconds
        while not any(line.startswith(start) for _, line in self.lines[after:]):
            assert time.monotonic() < deadline, self.lines[after:]
            time.sleep(0.005)


def good() -> dict[str, Any]:
    """The cheapest request that makes a video."""
    return {
        "image": uri(plain()),
        "first_audio": uri(voice()),
        "num_frames": 1,
        "sampling_steps": 2,
        "seed": 1,
    }


def environment(folder: Path, scratch: Path) -> dict[str, str]:
    """What the operator sets for the small model.

    It is as fast on one thread as on two, which would wait in circles for each other on a busy machine.
    """
    return {
        "OMP_NUM_THREADS": "1",
        "MULTITALK_MODEL": MODEL,
        "MODEL_PATH": str(folder),
        "MAX_SECONDS": str(MAX_SECONDS),
        "TMPDIR": str(scratch),
    }


@contextmanager
def serving(folder: Path, scratch: Path, **settings: str) -> Iterator[Service]:
    """A server with the small model, set up once."""
    lines: list[tuple[float, str]] = []
    with Server(
        ROOT,
        env=environment(folder, scratch) | settings,
        setup_timeout=120,
        on_log=lambda line: lines.append((time.monotonic(), line)),
    ) as server:
        yield Service(server=server, lines=lines, scratch=scratch)


@pytest.fixture(scope="session")
def service(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server of most tests."""
    with serving(trained_folder, tmp_path_factory.mktemp("scratch")) as running:
        yield running


@pytest.fixture(scope="session")
def film_service(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One with the model that can be shown a video."""
    scratch = tmp_path_factory.mktemp("scratch")
    with serving(trained_folder, scratch, MULTITALK_MODEL="infinitetalk-puppet") as running:
        yield running


@pytest.fixture(scope="session")
def fusionx(trained_folder: Path) -> str:
    """A LoRA for the small model where the operator would put FusionX."""
    bundle = weights.BUNDLES["FusionX"]
    path = trained_folder / bundle.folder / bundle.files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    layers = [f"diffusion_model.blocks.{i}.self_attn.{part}" for i in range(6) for part in "qv"]
    save_file(
        {
            f"{layer}.lora_{end}.weight": torch.randn(shape, generator=generator)
            for layer in layers
            for end, shape in (("A", (4, 192)), ("B", (192, 4)))
        },
        path,
    )
    return "FusionX"
