"""A real HTTP server on the loopback, which can be told to fail."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: its number from 0, and the first byte it wants (None without a range)."""

    number: int
    method: str
    path: str
    first: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How to answer: the defaults are a faultless server."""

    status: int = 0
    ranges: bool = True
    cut: int | None = None  # close the connection after so many bytes
    hang: int | None = None  # send nothing more after so many bytes
    rate: float = 0.0  # bytes a second
    body: bytes | None = None  # other bytes than those of the file
    etag: str = '"1"'


class Server:
    """Serves `files` (path to bytes); `answer` decides how, `asked` is what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer] = lambda asked: Answer()
        self.sent = 0
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.serve(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *values: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        path = request.path.partition("?")[0]
        first = int(found[1]) if found else None
        asked = Asked(number=len(self.asked), method=request.command, path=path, first=first)
        self.asked.append(asked)
        answer = self.answer(asked)
        whole = answer.body if answer.body is not None else self.files.get(path)
        status = answer.status or (404 if whole is None else 0)
        if whole is None or status:
            self.refuse(request, status)
            return
        begin, end = 0, len(whole)
        if found and answer.ranges:
            begin, end = int(found[1]), min(int(found[2] or len(whole)) + bool(found[2]), len(whole))
        if begin >= len(whole):
            self.refuse(request, 416)
            return
        request.send_response(206 if found and answer.ranges else 200)
        request.send_header("Content-Length", str(end - begin))
        request.send_header("ETag", answer.etag)
        for name, value in self.headers.get(path, {}).items():
            request.send_header(name, value)
        if found and answer.ranges:
            request.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(whole)}")
        request.end_headers()
        if request.command == "GET":
            self.send(request, whole[begin:end], answer)

    def refuse(self, request: BaseHTTPRequestHandler, status: int) -> None:
        request.send_response(status)
        if status == 404:
            for name, value in self.headers.get("refused", {}).items():
                request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request: BaseHTTPRequestHandler, body: bytes, answer: Answer) -> None:
        limit = min(len(body), *(n for n in (answer.cut, answer.hang) if n is not None), len(body))
        block = BLOCK if not answer.rate else max(1, min(BLOCK, int(answer.rate / 50)))
        try:
            for at in range(0, limit, block):
                piece = body[at : min(at + block, limit)]
                request.wfile.write(piece)
                self.sent += len(piece)
                if answer.rate:
                    time.sleep(len(piece) / answer.rate)
            if limit < len(body):
                if answer.hang is not None:
                    self.closing.wait(30)
                request.close_connection = True
        except OSError:  # the client went away
            request.close_connection = True
