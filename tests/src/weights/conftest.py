"""A server, a stand-in for pget, and little patience."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.weights.retry import RetryPolicy
from tests.src.weights.server import Server

STAND_IN = Path(__file__).parent / "pget"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def patience() -> RetryPolicy:
    """Fails within a second or two."""
    return RetryPolicy(timeout_s=20, stall_s=1.0, connect_s=2, read_s=0.5, attempts=4, backoff_s=0.01)


@pytest.fixture
def no_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without pget."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "StandIn":
    """The stand-in on PATH."""
    return StandIn(tmp_path / "bin", monkeypatch)


class StandIn:
    """The stand-in for pget; `calls` are the arguments of every download."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        self.program = folder / "pget"
        self.write()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(self, pause_s: float = 0.0) -> None:
        """Write the program; it pauses after every quarter of a megabyte that it writes."""
        text = STAND_IN.read_text(encoding="utf-8")
        for word, value in (
            ("PYTHON", sys.executable),
            ("PIDFILE", str(self.folder / "pget.pid")),
            ("CALLS", str(self.folder / "calls")),
            ("PAUSE", repr(pause_s)),
        ):
            text = text.replace(word, value)
        self.program.write_text(text, encoding="utf-8")
        self.program.chmod(0o755)

    def replace(self, script: str) -> None:
        """Another program of the same name."""
        self.program.write_text(f"#!/bin/sh\n{script}\n")

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []
