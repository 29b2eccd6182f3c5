"""A file on a server, read through all that can happen to a connection."""

import random
import time

import pytest

from src.weights.errors import CorruptError, SourceError, StoppedError
from src.weights.fetch.http_file import RemoteFile
from src.weights.retry import RetryPolicy
from tests.src.weights.server import Answer, Asked, Server

DATA = random.Random(0).randbytes(700_000)


@pytest.fixture(autouse=True)
def served(server: Server) -> None:
    server.files["/file"] = DATA


def read(server: Server, patience: RetryPolicy) -> bytes:
    with RemoteFile(f"{server.url}/file", patience) as remote:
        return remote.read()


def test_it_reads_like_a_local_file(server: Server, patience: RetryPolicy) -> None:
    with RemoteFile(f"{server.url}/file", patience) as remote:
        assert (remote.size, remote.tell()) == (len(DATA), 0)
        assert remote.read(10) == DATA[:10]
        remote.seek(600_000)
        assert remote.read(5) == DATA[600_000:600_005]
        remote.seek(-1, 1)
        assert remote.read(1) == DATA[600_004:600_005]
        remote.seek(100_000)
        assert remote.read(300_000) == DATA[100_000:400_000]
        remote.seek(-3, 2)
        assert remote.read(100) == DATA[-3:]
        assert remote.read(1) == b""


def test_reading_in_order_takes_one_request(server: Server, patience: RetryPolicy) -> None:
    with RemoteFile(f"{server.url}/file", patience) as remote:
        for at in range(1, len(DATA), 50_000):
            remote.seek(at - 1)
            assert remote.read(50_001) == DATA[at - 1 : at + 50_000]
    assert len(server.asked) <= 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed(server: Server, patience: RetryPolicy, ranges: bool) -> None:
    server.answer = lambda asked: Answer(cut=200_000 * (asked.number + 1) if not ranges else 150_000, ranges=ranges)
    assert read(server, patience) == DATA
    assert len(server.asked) > 2
    if ranges:
        assert server.sent == len(DATA)


def test_a_server_without_ranges_that_always_cuts_is_given_up(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(cut=200_000, ranges=False)
    with pytest.raises(SourceError, match=r"the connection ended at byte 200,000 of 700,000, 4 times in a row"):
        read(server, patience)


def test_errors_of_the_server_are_retried(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(status=500 if asked.number < 3 else 0)
    assert read(server, patience) == DATA


def test_errors_without_end_are_one_sentence(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(status=503)
    with pytest.raises(SourceError, match=r"^http\S+/file: HTTP 503, 4 times in a row$"):
        read(server, patience)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_retried(server: Server, patience: RetryPolicy, status: int) -> None:
    server.answer = lambda asked: Answer(status=status)
    with pytest.raises(SourceError, match=f"HTTP {status}"):
        read(server, patience)
    assert len(server.asked) == 1


def test_nobody_there(patience: RetryPolicy) -> None:
    with pytest.raises(SourceError, match=r"refused.*4 times in a row"):
        RemoteFile("http://127.0.0.1:1/file", patience)


def test_a_silent_server_is_asked_again(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(hang=300_000 if asked.number == 0 else None)
    assert read(server, patience) == DATA


def test_a_trickle_is_given_up(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(rate=100)
    with pytest.raises(SourceError, match="stands nearly still"):
        read(server, patience)


def test_another_version_in_the_middle(server: Server, patience: RetryPolicy) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(etag=f'"{asked.number}"', cut=100_000)

    server.answer = answer
    with pytest.raises(CorruptError, match="changed on the server"):
        read(server, patience)


def test_it_stops_when_told_to(server: Server, patience: RetryPolicy) -> None:
    server.answer = lambda asked: Answer(status=500)
    patience.stop.set()
    start = time.monotonic()
    with pytest.raises(StoppedError):
        read(server, patience)
    assert time.monotonic() - start < 1
