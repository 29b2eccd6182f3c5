"""An HTTP server that receives webhooks and uploads."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.src.storage.faulty_server import serve

WAIT_TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver:
    """Webhooks as JSON objects; uploads as path, headers and body."""

    url: str
    webhooks: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def statuses(self) -> list[str]:
        return [webhook["status"] for webhook in self.webhooks]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, self.webhooks
            time.sleep(0.01)

    def wait_for(self, status: str) -> dict[str, Any]:
        """The first webhook of a status."""
        self.wait_until(lambda: status in self.statuses())
        return next(webhook for webhook in self.webhooks if webhook["status"] == status)


@contextmanager
def receive_webhooks() -> Iterator[WebhookReceiver]:
    """A receiver in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def read_body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            receiver.webhooks.append(json.loads(self.read_body()))
            self.answer()

        def do_PUT(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.uploads.append((self.path, headers, self.read_body()))
            self.answer()

        def log_message(self, *_: object) -> None:
            """Silent."""

    with serve(Handler) as port:
        receiver = WebhookReceiver(url=f"http://127.0.0.1:{port}")
        yield receiver
