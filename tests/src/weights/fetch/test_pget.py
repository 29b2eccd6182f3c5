"""pget as it is: watched, ended, and not believed."""

import os
import time
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import CorruptError, SourceError, StoppedError, WeightsError
from src.weights.fetch import pget as module
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from tests.src.weights.conftest import StandIn
from tests.src.weights.samples import bundle, tar, tiny_files, tree, visible
from tests.src.weights.server import Answer, Server

FILES = tiny_files(100_000)


@pytest.fixture(autouse=True)
def served(server: Server) -> None:
    server.files["/tiny.tar"] = tar(FILES)


def download(server: Server, folder: Path, patience: RetryPolicy) -> Path:
    program = module.find_pget()
    assert program is not None
    return module.download(program, f"{server.url}/tiny.tar", folder / "run", patience)


def test_its_arguments(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    assert tree(download(server, tmp_path, patience)) == FILES
    assert pget.calls == [f"-xf {server.url}/tiny.tar {tmp_path}/run/tree"]


def test_a_pid_file_that_a_killed_run_left_holds_nobody_up(
    server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy
) -> None:
    (pget.folder / "pget.pid").touch()
    assert tree(download(server, tmp_path, patience)) == FILES


@pytest.mark.parametrize("script", ["echo usage: pget URL", "exit 1", "sleep 0; echo 'pget 1.2'"])
def test_another_program_of_that_name_is_not_used(pget: StandIn, script: str) -> None:
    pget.replace(script)
    assert module.find_pget() is None


def test_a_server_that_keeps_truncating(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(cut=50_000)
    with pytest.raises(SourceError, match="pget wrote nothing for 1 s"):
        download(server, tmp_path, patience)


def test_an_overall_timeout(server: Server, tmp_path: Path, pget: StandIn) -> None:
    pget.write(pause_s=0.4)
    with pytest.raises(SourceError, match=r"did not end within 0\.5 s"):
        download(server, tmp_path, RetryPolicy(timeout_s=0.5))


def test_a_server_without_ranges(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(ranges=False)
    with pytest.raises(SourceError, match=r"status 2 .*panic"):
        download(server, tmp_path, patience)


def test_a_compressed_tar(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    server.files["/tiny.tar"] = b"\x1f\x8b\x08\x00" + bytes(600)
    with pytest.raises(SourceError, match="status 1"):
        download(server, tmp_path, patience)


def test_an_archive_without_files(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    server.files["/tiny.tar"] = tar({})
    with pytest.raises(CorruptError, match="nothing"):
        download(server, tmp_path, patience)


def test_it_stops_when_told_to(server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy) -> None:
    patience.stop.set()
    with pytest.raises(StoppedError):
        download(server, tmp_path, patience)


def test_nothing_of_it_outlives_the_download(tmp_path: Path, pget: StandIn, server: Server) -> None:
    pid = tmp_path / "child"
    pget.replace(f'[ "$1" = version ] && echo "pget Version 0.11.0" && exit; sleep 60 & echo $! > {pid}; wait')
    with pytest.raises(SourceError, match="did not end"):
        download(server, tmp_path, RetryPolicy(timeout_s=0.5))
    time.sleep(0.1)
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.parametrize("fault", [Answer(ranges=False), Answer(cut=50_000)])
def test_where_pget_fails_http_goes_on(
    server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy, fault: Answer
) -> None:
    sources = Sources(names=("multitalk",), base_url=server.url)
    server.answer = lambda asked: fault
    ensure(tmp_path / "w", [bundle()], sources=sources, patience=patience)
    assert tree(tmp_path / "w" / "tiny") == FILES
    assert len(pget.calls) == 1


def test_what_a_killed_run_left_is_removed(
    server: Server, tmp_path: Path, pget: StandIn, patience: RetryPolicy
) -> None:
    for name in (".tiny.partial", ".tiny.pget.0123.partial"):
        (tmp_path / "w" / name / "tree").mkdir(parents=True)
    (tmp_path / "w" / ".tiny.partial" / "config.json").touch()
    ensure(tmp_path / "w", [bundle()], sources=Sources(names=("multitalk",), base_url=server.url), patience=patience)
    assert visible(tmp_path / "w") == ["tiny"]


def test_a_message_says_what_pget_said(tmp_path: Path, pget: StandIn, server: Server, patience: RetryPolicy) -> None:
    pget.replace('[ "$1" = version ] && echo "pget Version 0.11.0" && exit; echo "ERR it rains" >&2; exit 7')
    sources = Sources(names=("multitalk",), base_url="http://127.0.0.1:1")
    with pytest.raises(WeightsError, match=r"status 7 for .*: ERR it rains; .*refused"):
        ensure(tmp_path / "w", [bundle()], sources=sources, patience=patience)
    assert os.listdir(tmp_path / "w") == [".download.lock"]
