"""A local S3 server, and a proxy before it that fails when told to."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.src.storage.web import serving

BUCKET = "talks"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}


@dataclass
class Faults:
    """What the proxy lets pass: `refuse` is asked for each request by method and path."""

    refuse: Callable[[str, str], bool] = lambda *_: False
    seen: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStore:
    """Where the S3 server is, behind the proxy."""

    endpoint: str
    faults: Faults

    def client(self) -> Any:
        """Straight from boto3, to look at what ours left."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def environ(self) -> dict[str, str]:
        """What an operator sets."""
        return {**KEYS, "S3_BUCKET": BUCKET, "AWS_ENDPOINT_URL": self.endpoint}

    def objects(self, bucket: str = BUCKET) -> list[str]:
        """Every object in the bucket."""
        return [entry["Key"] for entry in self.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


@contextmanager
def local_store(*buckets: str) -> Iterator[LocalStore]:
    """A fresh one with these buckets. All of a process are the same one: none may be left in use for the next."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    faults = Faults()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            faults.seen.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if faults.refuse(self.command, self.path):
                self.reply(503, [], b"")
                return
            connection = http.client.HTTPConnection(host, port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in SKIPPED]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.reply(answer.status, headers, answer.read(), length)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", length or str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    try:
        with serving(Proxy) as proxy:
            store = LocalStore(endpoint=f"http://127.0.0.1:{proxy}", faults=faults)
            for bucket in buckets or (BUCKET,):
                store.client().create_bucket(
                    Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": KEYS["AWS_REGION"]}
                )
            faults.seen.clear()
            yield store
    finally:
        connection = http.client.HTTPConnection(host, port)
        connection.request("POST", "/moto-api/reset")
        connection.getresponse().read()
        server.stop()


SKIPPED = {"content-length", "transfer-encoding", "connection", "server", "date"}
