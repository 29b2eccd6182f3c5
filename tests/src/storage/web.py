"""A web server whose files misbehave in every way that a stranger's may."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Thread

from src.storage.http.ip_policy import Address

FILE = b"RIFF" + bytes(range(256)) * 40


class Web(BaseHTTPRequestHandler):
    """Answers by path; `asked` counts the requests of all paths."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str]
    hosts: list[str]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.asked[path] += 1
        self.hosts.append(self.headers["Host"])
        with suppress(OSError):
            getattr(self, path.strip("/").replace("-", "_"))(query)

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | given).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self, _: str) -> None:
        self.answer(FILE)

    def to(self, query: str) -> None:
        self.answer(b"", 302, Location=query)

    def loop(self, _: str) -> None:
        self.answer(b"", 302, Location="/loop")

    def garbage(self, _: str) -> None:
        self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        self.close_connection = True

    def long_head(self, _: str) -> None:
        self.answer(FILE, X_Long="x" * 100_000)

    def odd_length(self, _: str) -> None:
        self.answer(FILE, Content_Length="9" * 5_000)
        self.close_connection = True

    def missing(self, _: str) -> None:
        self.answer(b"no", 404)

    def packed(self, _: str) -> None:
        self.answer(FILE, Content_Encoding="gzip")

    def cut(self, _: str) -> None:
        self.answer(FILE, Content_Length=str(2 * len(FILE)))
        self.close_connection = True

    def claims_much(self, _: str) -> None:
        self.answer(FILE, Content_Length=str(10**12))
        self.close_connection = True

    def busy_once(self, _: str) -> None:
        self.answer(FILE, 503 if self.asked["/busy-once"] == 1 else 200)

    def endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(FILE)

    def chunks(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(FILE), 1000):
            part = FILE[start : start + 1000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def drips(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        self.drip(lambda index: FILE[index : index + 1])

    def drips_its_head(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(lambda index: b"X-%d: 1\r\n" % index)

    def goes_on(self, _: str) -> None:
        self.drip(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n")

    def has_an_endless_tail(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"4\r\nRIFF\r\n0\r\n")
        self.drip(lambda index: b"X-%d: 1\r\n" % index)

    def drip(self, piece: Callable[[int], bytes]) -> None:
        for index in range(200):
            self.wfile.write(piece(index))
            self.wfile.flush()
            time.sleep(0.05)

    def silent(self, _: str) -> None:
        time.sleep(5)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], wrap: Callable[..., object] | None = None) -> Iterator[int]:
    """The port of a server in a thread; `wrap` changes its socket."""
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


class Names:
    """A name service for tests: each name leads to the addresses of its next turn, the last turn for ever."""

    def __init__(self, **turns: list[str]) -> None:
        self.turns = {name.replace("_", "."): list(addresses) for name, addresses in turns.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, _: int) -> list[Address]:
        self.asked.append(host)
        if host not in self.turns:
            with suppress(ValueError):
                return [ip_address(host)]
            raise OSError("unknown name")
        turns = self.turns[host]
        turn = turns.pop(0) if len(turns) > 1 else turns[0]
        return [ip_address(part) for part in turn.split()]
