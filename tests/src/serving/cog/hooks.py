"""Where a server under test sends its webhooks and uploads."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.src.storage.faulty_server import serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What came: webhooks as objects, uploads as bytes with their headers."""

    url: str
    told: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def statuses(self) -> list[str]:
        return [told["status"] for told in self.told]

    def wait(self, until: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.told
            time.sleep(0.01)

    def wait_for(self, status: str) -> dict[str, Any]:
        """The first webhook of a status."""
        self.wait(lambda: status in self.statuses())
        return next(told for told in self.told if told["status"] == status)


@contextmanager
def hooks() -> Iterator[Hooks]:
    """A receiver in a thread."""

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def read(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def thank(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            received.told.append(json.loads(self.read()))
            self.thank()

        def do_PUT(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            received.uploads.append((self.path, headers, self.read()))
            self.thank()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with serve(Receiver) as port:
        received = Hooks(url=f"http://127.0.0.1:{port}")
        yield received
