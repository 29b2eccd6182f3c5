"""One real server with the small model, for every test of the predictor."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
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
from tests.predict.media_files import plain, uri, voice

MAX_SECONDS = 30
MODEL = "multitalk-puppet"


STATE_TIMEOUT_S = 240.0
"""Limit of waiting for a state; a busy machine may need most of it, a healthy idle one milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server, the readable lines of its log so far, and its folder for temporary files."""

    server: Server
    lines: list[str]
    scratch: Path

    def succeed(self, **inputs: Any) -> dict[str, Any]:
        """The answer to a good request that `inputs` change; None leaves one out."""
        changed = {name: value for name, value in (good() | inputs).items() if value is not None}
        answer = self.server.predict(changed)
        assert answer["status"] == "succeeded", answer.get("error")
        return answer

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once `condition` holds; fail when the server ends or after STATE_TIMEOUT_S."""
        deadline = time.monotonic() + STATE_TIMEOUT_S
        while not condition():
            assert self.server.process.poll() is None, f"the server ended before {what}"
            assert time.monotonic() < deadline, f"no {what}: {self.server.health()}, {self.lines[-20:]}"
            time.sleep(0.005)

    def wait_for_line(self, start: str, after: int = 0) -> None:
        """Return once a line that begins with `start` is in the log, at or behind position `after`."""
        self.wait_until(lambda: any(line.startswith(start) for line in self.lines[after:]), f"line {start!r}")

    def wait_ready(self) -> None:
        """Return once the server can take the next request."""
        self.wait_until(lambda: self.server.health().get("status") == "READY", "state READY")

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """POST a prediction; a 409, which the server gives for a moment after a request, is retried when READY."""
        while True:
            self.wait_ready()
            status, answer = self.server.request("POST", "/predictions", body, headers=headers)
            if status != 409:
                return status, answer

    def cpu_seconds(self) -> float:
        """Processor time that the server's processes have used; of those in its session, which it starts."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.server.process.pid:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def good() -> dict[str, Any]:
    """The cheapest request that makes a video."""
    return {"image": uri(plain()), "first_audio": uri(voice()), "num_frames": 1, "sampling_steps": 2, "seed": 1}


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
    lines: list[str] = []
    with Server(
        ROOT, env=environment(folder, scratch) | settings, setup_timeout=STATE_TIMEOUT_S, on_log=lines.append
    ) as server:
        yield Service(server=server, lines=lines, scratch=scratch)


@pytest.fixture(scope="session")
def service(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server that most tests share."""
    with serving(trained_folder, tmp_path_factory.mktemp("scratch")) as running:
        yield running


@pytest.fixture(scope="session")
def infinitetalk_service(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with InfiniteTalk, which takes a video as the image."""
    scratch = tmp_path_factory.mktemp("scratch")
    with serving(trained_folder, scratch, MULTITALK_MODEL="infinitetalk-puppet") as running:
        yield running


@pytest.fixture(autouse=True)
def shared_server_is_left_ready(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that abandons a request waits for its end: otherwise the next test would get a 409."""
    yield
    for name in {"service", "infinitetalk_service"} & set(request.fixturenames):
        try:
            request.getfixturevalue(name).wait_ready()
        except AssertionError as error:
            pytest.fail(f"{request.node.nodeid} did not leave the server READY: {error}")


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
