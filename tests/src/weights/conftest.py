"""A local server, a stand-in for pget, and every way to serve a bundle."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.manifest import Bundle
from src.weights.retry import RetryPolicy
from src.weights.sources import HUB_SOURCE, TAR_SOURCE, Sources
from tests.src.weights.samples import bundle, tar
from tests.src.weights.server import FakeHub, Server

STAND_IN = (Path(__file__).parent / "pget").read_text(encoding="utf-8")
POLICY = RetryPolicy(timeout_s=120, stall_s=60, read_s=30, attempts=4, backoff_s=0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def no_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without pget."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "StandIn":
    """The stand-in on PATH."""
    return StandIn(tmp_path / "bin", monkeypatch)


class StandIn:
    """The stand-in for pget; `calls` are the arguments of every download."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.program, self.log = folder / "pget", folder / "calls"
        self.program.write_text(STAND_IN.replace("PYTHON", sys.executable).replace("CALLS", str(self.log)))
        self.program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def replace(self, script: str) -> None:
        """Replace it by a shell script that answers `pget version`."""
        self.program.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo "pget Version 0.11.0" && exit\n{script}\n')

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@dataclass
class Host:
    """Serves bundles in one of the ways, and fetches them into `folder`."""

    server: Server
    folder: Path
    source: str

    @property
    def sources(self) -> Sources:
        return Sources(names=(self.source,), base_url=self.server.url)

    def serve(self, files: dict[str, bytes], name: str = "tiny") -> None:
        if self.source == HUB_SOURCE:
            FakeHub(self.server, f"somebody/{name}").add(files)
        else:
            self.server.files[f"/{name}.tar"] = tar(files, name)

    def ensure(self, *bundles: Bundle, progress: Callable[[str, int, int], None] | None = None) -> None:
        ensure(self.folder, bundles or [bundle()], sources=self.sources, policy=POLICY, progress=progress)


@pytest.fixture(params=["tar", "published tar", "hub"])
def host(request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A tar that pget only downloads, one that it also unpacks, and a repository of the hub."""
    if request.param == "published tar":
        monkeypatch.setattr("src.weights.sources.BASE_URL", server.url)
    if request.param == "hub":
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("PATH", os.devnull)
        return Host(server, tmp_path / "w", HUB_SOURCE)
    request.getfixturevalue("pget")
    return Host(server, tmp_path / "w", TAR_SOURCE)
