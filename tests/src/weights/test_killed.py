"""Killed at any moment, and two at once: the next start ends in a correct folder."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.weights.disk import tree_bytes
from src.weights.manifest import BUNDLES, MARKER
from tests.src.weights.conftest import StandIn
from tests.src.weights.fetch.test_hub import COMMIT
from tests.src.weights.samples import WAV2VEC, files_of, tar, tree, visible
from tests.src.weights.server import Answer, Server

ROOT = Path(__file__).parents[3]
SIZE = 2_000_000
FILES = files_of(WAV2VEC, SIZE)
TAR = tar(FILES, WAV2VEC)
RATE = 8_000_000  # bytes a second
WAYS = ["pget", "http", "hub"]
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "w"


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest, server: Server, folder: Path, tmp_path: Path) -> Start:
    """Starts `python weights.py download` for a bundle that takes half a second to come."""
    way = request.param
    server.answer = lambda asked: Answer(rate=RATE)
    server.files[f"/{WAV2VEC}.tar"] = TAR
    serve_hub(server)
    if way == "pget":
        stand_in: StandIn = request.getfixturevalue("pget")
        stand_in.write(pause_s=0.08)
    else:
        request.getfixturevalue("no_pget")
    environment = os.environ | {
        "MULTITALK_WEIGHTS_URL": server.url,
        "MULTITALK_WEIGHTS_SOURCES": "huggingface" if way == "hub" else "multitalk",
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "weights.py", "download", WAV2VEC, "--dest", str(folder)]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    return start


def serve_hub(server: Server) -> None:
    revisions = {file.revision for file in BUNDLES[WAV2VEC].files if file.revision}
    for path, data in FILES.items():
        for revision in ("main", COMMIT, *revisions):
            address = f"/TencentGameMate/{WAV2VEC}/resolve/{revision}/{path}"
            server.files[address] = data
            server.headers[address] = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process as the system does when memory runs out; its children are on their own."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def orphans(folder: Path) -> list[str]:
    """The command lines of processes that still know the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def assert_ends_well(start: Start, folder: Path) -> None:
    assert start().wait(60) == 0
    assert visible(folder) == [WAV2VEC]
    assert tree(folder / WAV2VEC) == FILES
    assert (folder / WAV2VEC / MARKER).is_file()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_killed_in_the_middle(start: Start, server: Server, folder: Path, request: pytest.FixtureRequest) -> None:
    server.answer = lambda asked: Answer(rate=RATE / 4)
    process = start()
    # The hub's library writes what has come only now and then, so there it is the server that knows.
    hub = "hub" in request.node.name
    wait_for(lambda: (server.sent if hub else tree_bytes(folder)) > SIZE / 2)
    kill(process)
    server.answer = lambda asked: Answer(rate=RATE)
    wait_for(lambda: not orphans(folder), 2)
    if WAV2VEC in visible(folder):  # a busy machine killed it late; that it ends well is still to be seen
        assert_ends_well(start, folder)
        pytest.skip("the download had ended before the kill reached it")
    left, before = tree_bytes(folder), server.sent
    assert_ends_well(start, folder)
    if "http" in request.node.name:
        assert left > SIZE / 2
        assert server.sent - before < 0.8 * len(TAR), "the rest should do"


def test_interrupted_by_the_user(start: Start, server: Server, folder: Path) -> None:
    server.answer = lambda asked: Answer(rate=RATE / 4)
    process = start()
    wait_for(lambda: server.sent > SIZE / 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert orphans(folder) == []
    server.answer = lambda asked: Answer(rate=RATE)
    assert_ends_well(start, folder)


def test_killed_at_random_moments(start: Start, folder: Path) -> None:
    for delay in (0.3, 0.6):
        process = start()
        time.sleep(delay)
        kill(process)
    assert_ends_well(start, folder)


def test_two_at_once(start: Start, server: Server, folder: Path) -> None:
    processes = [start(), start()]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert tree(folder / WAV2VEC) == FILES
    assert visible(folder) == [WAV2VEC]
    assert server.sent < 1.5 * len(TAR), "the second should wait, not download again"


def test_the_second_takes_over_when_the_first_is_killed(start: Start, server: Server, folder: Path) -> None:
    server.answer = lambda asked: Answer(rate=RATE / 4)
    first = start()
    wait_for(lambda: server.sent > SIZE / 10)
    second = start()
    time.sleep(0.6)
    assert second.poll() is None
    server.answer = lambda asked: Answer(rate=RATE)
    kill(first)
    assert second.wait(60) == 0
    assert tree(folder / WAV2VEC) == FILES


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100))
def test_killed_at_a_hundred_random_moments(start: Start, folder: Path, seed: int) -> None:
    """One to three kills, sometimes with a second process that waits, then a start."""
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 3)):
        processes = [start() for _ in range(dice.randint(1, 2))]
        time.sleep(dice.uniform(0.05, 1.4))
        for process in processes:
            kill(process)
    assert_ends_well(start, folder)
    wait_for(lambda: not orphans(folder), 2)
