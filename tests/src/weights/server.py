"""A local HTTP server with faults on demand, and the hub's API on it."""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK_BYTES = 1 << 16
COMMIT = "a" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request: its number from 0, method and path."""

    number: int
    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How to respond; the default is without faults."""

    status: int = 0
    ranges: bool = True
    cut: int | None = None  # close the connection after so many bytes
    hold: int | None = None  # after so many bytes, wait until `released` is set
    body: bytes | None = None  # other bytes than those of the file


class Server:
    """Serves `files` by path. `answer` decides how; `requests` and `num_sent` (bytes) record what was served."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.error_headers: dict[str, str] = {}
        self.requests: list[Received] = []
        self.answer: Callable[[Received], Answer] = lambda request: Answer()
        self.num_sent = 0
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.respond(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *values: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def downloads(self) -> list[str]:
        """The names of the files that were requested with GET."""
        return sorted({r.path.rpartition("/")[2] for r in self.requests if r.method == "GET" and "/api/" not in r.path})

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        request = Received(number=len(self.requests), method=handler.command, path=path)
        self.requests.append(request)
        answer = self.answer(request)
        body = answer.body if answer.body is not None else self.files.get(path)
        if body is None or answer.status:
            return self.send_headers(handler, answer.status or 404, {**self.error_headers, "Content-Length": "0"})
        headers = {"ETag": '"1"', **self.headers.get(path, {})}
        start, status = 0, 200
        if answer.ranges and (match := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_headers(handler, status, {**headers, "Content-Length": str(len(body) - start)})
        if handler.command == "GET":
            self.send_body(handler, body[start:], answer)
        return None

    def send_headers(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    def send_body(self, handler: BaseHTTPRequestHandler, body: bytes, answer: Answer) -> None:
        end = min(len(body), answer.cut if answer.cut is not None else len(body))
        try:
            for start in range(0, end, CHUNK_BYTES):
                if answer.hold is not None and start >= answer.hold:
                    self.released.wait(120)
                chunk = body[start : min(start + CHUNK_BYTES, end)]
                handler.wfile.write(chunk)
                self.num_sent += len(chunk)
            handler.close_connection = handler.close_connection or end < len(body)
        except OSError:  # the client closed the connection
            handler.close_connection = True


class FakeHub:
    """A repository on the server, with the paths, JSON and headers of the real hub. Every file is a large (LFS) one."""

    def __init__(self, server: Server, repository: str) -> None:
        self.server = server
        self.repository = repository
        self.entries: dict[str, dict[str, bytes]] = {}
        server.error_headers = {"X-Error-Code": "EntryNotFound"}

    def add(self, files: dict[str, bytes], revision: str = "main", commit: str = COMMIT) -> None:
        """Publish files at a commit, to which the revision then points."""
        entries = self.entries.setdefault(commit, {})
        entries.update(files)
        api, siblings, nodes = f"/api/models/{self.repository}", [], []
        for path, data in entries.items():
            digest = hashlib.sha256(data).hexdigest()
            lfs = {"size": len(data), "pointerSize": 100}
            siblings.append({"rfilename": path, "size": len(data), "lfs": {**lfs, "sha256": digest}})
            nodes.append({"type": "file", "path": path, "size": len(data), "oid": "0", "lfs": {**lfs, "oid": digest}})
            url = f"/{self.repository}/resolve/{commit}/{path}"
            self.server.files[url] = data
            self.server.headers[url] = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{digest}"',
            }
        info = {"id": self.repository, "sha": commit, "siblings": siblings}
        self.server.files[f"{api}/revision/{revision.replace('/', '%2F')}"] = json.dumps(info).encode()
        self.server.files[f"{api}/tree/{commit}"] = json.dumps(nodes).encode()
