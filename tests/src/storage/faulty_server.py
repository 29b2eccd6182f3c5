"""An HTTP server that misbehaves by path, and a fake DNS."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Event, Thread
from typing import ClassVar

from src.storage.http.ip_policy import Address

FILE = b"RIFF" + bytes(range(256)) * 40
NUM_DRIPS = 200


class FaultyHandler(BaseHTTPRequestHandler):
    """Calls the method named by the path. Each subclass has counters of its own."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[Counter[str]]
    hosts: ClassVar[list[str]]
    drips_sent: ClassVar[Counter[str]]
    third_drip: ClassVar[Event]

    def __init_subclass__(cls) -> None:
        cls.requests, cls.hosts, cls.drips_sent, cls.third_drip = Counter(), [], Counter(), Event()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.requests[path] += 1
        self.hosts.append(self.headers["Host"])
        with suppress(OSError):
            getattr(self, path.strip("/").replace("-", "_"))(query)

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self, _: str) -> None:
        self.answer(FILE)

    def redirect(self, query: str) -> None:
        self.answer(b"", 302, Location=query)

    def redirect_loop(self, _: str) -> None:
        self.answer(b"", 302, Location="/redirect-loop")

    def garbage(self, _: str) -> None:
        self.wfile.write(b"\x00\x01 not HTTP\r\n\r\n")
        self.close_connection = True

    def long_header(self, _: str) -> None:
        self.answer(FILE, X_Long="x" * 100_000)

    def invalid_length(self, _: str) -> None:
        self.answer(FILE, Content_Length="9" * 5_000)
        self.close_connection = True

    def missing(self, _: str) -> None:
        self.answer(b"no", 404)

    def compressed(self, _: str) -> None:
        self.answer(FILE, Content_Encoding="gzip")

    def truncated(self, _: str) -> None:
        self.answer(FILE, Content_Length=str(2 * len(FILE)))
        self.close_connection = True

    def huge_length(self, _: str) -> None:
        self.answer(FILE, Content_Length=str(10**12))
        self.close_connection = True

    def busy_once(self, _: str) -> None:
        self.answer(FILE, 503 if self.requests["/busy-once"] == 1 else 200)

    def endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(FILE)

    def chunked(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(FILE), 1000):
            part = FILE[start : start + 1000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def slow_body(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        self.drip(lambda index: FILE[index : index + 1])

    def slow_headers(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(lambda index: b"X-%d: 1\r\n" % index)

    def endless_continue(self, _: str) -> None:
        self.drip(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n")

    def slow_trailers(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"4\r\nRIFF\r\n0\r\n")
        self.drip(lambda index: b"X-%d: 1\r\n" % index)

    def silent(self, _: str) -> None:
        time.sleep(5)

    def drip(self, make_bytes: Callable[[int], bytes]) -> None:
        """Write a little at a time, until the client disconnects or NUM_DRIPS are sent."""
        for index in range(NUM_DRIPS):
            self.wfile.write(make_bytes(index))
            self.wfile.flush()
            self.drips_sent[self.path] += 1
            if index == 3:
                self.third_drip.set()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Silent."""


def fresh_handler() -> type[FaultyHandler]:
    """A handler with counters of its own."""

    class FreshHandler(FaultyHandler):
        """No further paths."""

    return FreshHandler


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler], wrap: Callable[..., object] | None = None) -> Iterator[int]:
    """The port of a server in a thread; `wrap` replaces its socket, for TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if wrap is not None:
        server.socket = wrap(server.socket)  # type: ignore[assignment]
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class FakeDns:
    """Resolves each host to the addresses of its next answer; the last answer is repeated."""

    def __init__(self, **answers: list[str]) -> None:
        """Hosts with underscores for dots; an answer is addresses separated by blanks."""
        self.answers = {host.replace("_", "."): list(addresses) for host, addresses in answers.items()}
        self.queries: list[str] = []

    def __call__(self, host: str, _: int) -> list[Address]:
        self.queries.append(host)
        if host not in self.answers:
            with suppress(ValueError):
                return [ip_address(host)]
            raise OSError("unknown host")
        answers = self.answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(address) for address in answer.split()]
