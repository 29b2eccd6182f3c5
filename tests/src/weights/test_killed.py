"""Processes that are killed at any moment, and two at once: the next start ends in a complete folder."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.weights.manifest import BUNDLES, MARKER
from tests.src.weights.samples import WAV2VEC, files_of, list_dir, tar, tree
from tests.src.weights.server import Answer, FakeHub, Server

ROOT = Path(__file__).parents[3]
SIZE = 2_000_000
FILES = files_of(WAV2VEC, SIZE)
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "w"


@pytest.fixture(params=["pget", "hub"])
def start(request: pytest.FixtureRequest, server: Server, folder: Path, tmp_path: Path) -> Start:
    """Starts `python weights.py download`; the server sends the second half when `released` is set."""
    server.answer = lambda received: Answer(hold=SIZE // 2)
    server.files[f"/{WAV2VEC}.tar"] = tar(FILES, WAV2VEC)
    hub = FakeHub(server, f"TencentGameMate/{WAV2VEC}")
    for revision in ("main", *(file.revision for file in BUNDLES[WAV2VEC].files if file.revision)):
        hub.add(FILES, revision)
    request.getfixturevalue("pget" if request.param == "pget" else "no_pget")
    environment = os.environ | {
        "MULTITALK_WEIGHTS_URL": server.url,
        "MULTITALK_WEIGHTS_SOURCES": "huggingface" if request.param == "hub" else "multitalk",
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "weights.py", "download", WAV2VEC, "--dest", str(folder)]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
        )

    return start


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a state; the limit is that of a process that hangs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_orphans(folder: Path) -> bool:
    """Whether a process has the folder in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False


def assert_next_start_completes(start: Start, folder: Path) -> None:
    assert start().wait(120) == 0
    assert list_dir(folder) == [WAV2VEC]
    assert tree(folder / WAV2VEC) == FILES
    assert (folder / WAV2VEC / MARKER).is_file()


def test_killed_in_the_middle(start: Start, server: Server, folder: Path) -> None:
    process = start()
    wait_for(lambda: server.num_sent >= SIZE // 2)
    process.kill()
    process.wait()
    wait_for(lambda: not has_orphans(folder))
    assert WAV2VEC not in list_dir(folder)
    server.released.set()
    assert_next_start_completes(start, folder)


@pytest.mark.parametrize("start", ["pget"], indirect=True)
def test_interrupted_by_the_user(start: Start, server: Server, folder: Path) -> None:
    process = start()
    wait_for(lambda: server.num_sent >= SIZE // 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert not has_orphans(folder)
    server.released.set()
    assert_next_start_completes(start, folder)


@pytest.mark.parametrize("is_killed", [False, True])
def test_second_process_waits_for_the_first(start: Start, server: Server, folder: Path, is_killed: bool) -> None:
    first = start()
    wait_for(lambda: server.num_sent >= SIZE // 2)
    second = start()
    assert second.stderr is not None
    assert any(b"waiting for another process" in line for line in iter(second.stderr.readline, b""))
    if is_killed:
        first.kill()
    server.released.set()
    assert first.wait(120) == (-signal.SIGKILL if is_killed else 0)
    assert second.wait(120) == 0
    assert tree(folder / WAV2VEC) == FILES
    assert list_dir(folder) == [WAV2VEC]
    if not is_killed:
        assert server.num_sent < 1.5 * SIZE, "the second process must not download again"


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100))
def test_killed_at_random_moments(start: Start, server: Server, folder: Path, seed: int) -> None:
    """One to three kills, sometimes of two processes, then a start that completes."""
    server.released.set()
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        processes = [start() for _ in range(rng.randint(1, 2))]
        time.sleep(rng.uniform(0.05, 1.4))
        for process in processes:
            process.kill()
            process.wait()
    assert_next_start_completes(start, folder)
