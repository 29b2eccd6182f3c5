"""The gateway's limits of time, size and number, before a stand-in of Cog's server."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from src.serving.cog.backend import Backend
from src.serving.cog.connection import ConnectionLimits
from src.serving.cog.gateway import Gateway
from src.serving.cog.gateway_server import listen, make_server
from src.serving.cog.prediction_folders import PredictionFolders
from src.serving.cog.request_body import BodyReader

DOCUMENT = {"components": {"schemas": {"Input": {"properties": {"image": {"format": "uri"}}}}}}
NEVER_S, SOON_S, WAIT_S = 3600.0, 0.05, 60.0
PATIENT = ConnectionLimits(head_s=NEVER_S, body_s=NEVER_S, write_s=NEVER_S)
POST = b"POST /predictions HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b'{"input": {"image": "data:,x"}}'


class StandIn:
    """Answers like Cog's server; `answer` is what the gateway forwards."""

    def __init__(self) -> None:
        self.received: list[httpx2.Request] = []
        self.answer = b'{"status": "succeeded"}'

    async def send(self, method: str, path: str, body: bytes | None = None, headers: Any = None) -> httpx2.Response:
        self.received.append(httpx2.Request(method, f"http://cog{path}", content=body, headers=headers))
        return httpx2.Response(200, content=self.answer, headers={"content-type": "application/json"})


@pytest.fixture
def cog() -> StandIn:
    return StandIn()


Serve = Callable[..., int]


@pytest.fixture
def serve(cog: StandIn, tmp_path: Any) -> Iterator[Serve]:
    """Starts a gateway with limits; returns its port."""
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(running(cog, PredictionFolders(tmp_path), *args))


@contextmanager
def running(cog: StandIn, folders: PredictionFolders, limits: ConnectionLimits, bodies: BodyReader) -> Iterator[int]:
    backend = cast(Backend, SimpleNamespace(send=cog.send, temp_dir=SimpleNamespace(restore=lambda: None)))
    gateway = Gateway(backend=backend, document=DOCUMENT, folders=folders, bodies=bodies)
    server = make_server(gateway.make_app(), limits)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        thread.join(WAIT_S)


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    connection.sendall(data)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    with closing(connection):
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def status(port: int, data: bytes = GET) -> bytes:
    """The status of the answer to a request."""
    with closing(connect(port, data)) as connection:
        return connection.recv(1 << 16)[9:12]


@pytest.mark.parametrize("head", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", GET + b"GET / HTTP"])
def test_a_head_that_does_not_come_closes_the_connection(serve: Serve, head: bytes) -> None:
    port = serve(replace(PATIENT, head_s=SOON_S, keep_alive_s=3600), BodyReader(timeout_s=NEVER_S))
    answer = read_all(connect(port, head))
    assert answer.count(b"HTTP/1.1 200") == head.count(GET)
    assert status(port) == b"200"


def test_a_head_that_trickles_in_closes_the_connection(serve: Serve) -> None:
    port = serve(replace(PATIENT, head_s=SOON_S), BodyReader(timeout_s=NEVER_S))
    send_until_closed(connect(port, b"GET / HTTP/1.1\r\n"), b"X: 1\r\n")
    assert status(port) == b"200"


def send_until_closed(connection: socket.socket, data: bytes) -> None:
    """Send a little at a time, and read nothing, until the server closes the connection."""
    deadline = time.monotonic() + WAIT_S
    with closing(connection), suppress(ConnectionError):
        while True:
            assert time.monotonic() < deadline
            connection.sendall(data)
            time.sleep(0.01)


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_does_not_come_is_refused(serve: Serve, framing: bytes) -> None:
    port = serve(PATIENT, BodyReader(timeout_s=SOON_S))
    with closing(connect(port, POST + framing)) as connection, http.client.HTTPResponse(connection) as answer:
        answer.begin()
        assert answer.status == 408
        assert b"was not here after 0.05 s" in answer.read()
    assert status(port) == b"200"


@pytest.mark.parametrize("path", [b"POST /predictions/x/cancel", b"GET /openapi.json", b"GET /none"])
def test_a_body_that_nobody_reads_closes_the_connection(serve: Serve, path: bytes) -> None:
    port = serve(replace(PATIENT, body_s=SOON_S, keep_alive_s=3600), BodyReader(timeout_s=NEVER_S))
    answer = read_all(connect(port, path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"))
    assert answer.count(b"HTTP/1.1") == 1


def test_an_answer_that_is_not_read_closes_the_connection(serve: Serve, cog: StandIn) -> None:
    cog.answer = b"x" * (64 << 20)
    port = serve(replace(PATIENT, write_s=SOON_S), BodyReader(timeout_s=NEVER_S))
    send_until_closed(connect(port, GET), b"\r\n")
    assert status(port) == b"200"


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks, without a length."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_a_body_in_chunks_is_read(serve: Serve, cog: StandIn) -> None:
    port = serve(PATIENT, BodyReader())
    assert status(port, POST + chunked(BODY, 1)) == b"200"
    assert json.loads(cog.received[-1].content)["input"] == {"image": "fetch:data:,x"}


@pytest.mark.parametrize(
    "framing",
    [
        chunked(b"x" * 2000, 100),
        chunked(b"x" * 2000, 1),
        b"Content-Length: 2000\r\n\r\n",
        b"Content-Length: 9" + b"9" * 17,
    ],
)
def test_a_body_over_the_limit_is_refused(serve: Serve, cog: StandIn, framing: bytes) -> None:
    port = serve(PATIENT, BodyReader(max_bytes=1000))
    assert status(port, POST + framing + b"\r\n\r\n" * framing.endswith(b"9")) == b"413"
    assert cog.received == []
    assert status(port, POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY) == b"200"


def test_bodies_over_the_limit_together_are_refused(serve: Serve) -> None:
    bodies = BodyReader(max_buffered_bytes=1000)
    port = serve(PATIENT, bodies)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(closing(connect(port, POST + b"Content-Length: 999\r\n\r\n" + b"x" * 240)))
        wait_for(lambda: bodies.buffered_bytes == 960)
        assert status(port, POST + b"Content-Length: 999\r\n\r\n" + b"x" * 100) == b"503"
        assert status(port) == b"200"
    wait_for(lambda: bodies.buffered_bytes == 0)
    assert status(port, POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY) == b"200"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 8_000,
        POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 40_000,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 40_000,
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=range(12),
)
def test_a_head_that_is_too_long_or_malformed_is_refused(serve: Serve, cog: StandIn, head: bytes) -> None:
    port = serve(PATIENT, BodyReader())
    assert status(port, head) == b"400"
    assert cog.received == []


def test_idle_connections_keep_nobody_out(serve: Serve) -> None:
    port = serve(replace(PATIENT, max_connections=8), BodyReader(timeout_s=NEVER_S))
    with ExitStack() as stack:
        for data in [b"GET / HT", POST + b"Content-Length: 9\r\n\r\n{"] * 16:
            stack.enter_context(closing(connect(port, data)))
            assert status(port) == b"200"


@pytest.mark.parametrize("header", [b"Prefer: \xff\xfe", b"traceparent: " + b"z" * 20_000, b"Accept: \xff text/html"])
def test_headers_that_are_not_ascii_are_not_forwarded(serve: Serve, cog: StandIn, header: bytes) -> None:
    port = serve(PATIENT, BodyReader())
    assert status(port, POST + header + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY) == b"200"
    assert (b"\xff" in header) != (header.partition(b":")[0].decode() in cog.received[0].headers)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (b"Content-Type: text/plain", b"415"),
        (b"Content-Type: multipart/form-data; boundary=x", b"415"),
        (b"Content-Type: application/json; charset=utf-8", b"200"),
        (b"Content-Type: application/vnd.api+json", b"200"),
        (b"Origin: https://example.org", b"403"),
        (b"Origin: null", b"403"),
        (b"Origin: http://x", b"200"),
    ],
)
def test_web_pages_of_other_servers_are_refused(serve: Serve, cog: StandIn, header: bytes, answer: bytes) -> None:
    port = serve(PATIENT, BodyReader())
    assert status(port, POST + header + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY) == answer
    assert (cog.received == []) is (answer != b"200")
    cancelled = b"403" if b"Origin" in header and answer == b"403" else b"200"
    assert status(port, b"POST /predictions/x/cancel HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n") == cancelled
