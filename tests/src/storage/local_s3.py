"""A local S3 server behind a proxy that injects faults."""

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.src.storage.faulty_server import serve

BUCKET = "talks"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}
HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "server", "date"}


@dataclass(frozen=True)
class Answer:
    """A response; with a `length` above that of the body the connection ends in the middle."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: str | None = None


@dataclass
class Faults:
    """The proxy answers 503 to a request if `refuse(method, path)`, and what `spoil` makes of the answer otherwise,
    None for a reset connection; `requests` has all of them."""

    refuse: Callable[[str, str], bool] = lambda *_: False
    spoil: Callable[[str, str, Answer], Answer | None] = lambda _method, _path, answer: answer
    requests: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalS3:
    """The endpoint of the proxy, and its faults."""

    endpoint: str
    faults: Faults

    def client(self) -> Any:
        """A plain boto3 client, to inspect the bucket."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=CREDENTIALS["AWS_REGION"],
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def environ(self) -> dict[str, str]:
        """The variables that an operator sets."""
        return {**CREDENTIALS, "S3_BUCKET": BUCKET, "AWS_ENDPOINT_URL": self.endpoint}

    def objects(self, bucket: str = BUCKET) -> list[str]:
        """The keys in the bucket."""
        return [entry["Key"] for entry in self.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


@contextmanager
def local_s3(*buckets: str) -> Iterator[LocalS3]:
    """A server with these buckets. All servers of a process share their objects, which are deleted at the end."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    faults = Faults()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            faults.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if faults.refuse(self.command, self.path):
                self.reply(Answer(503, [], b""))
                return
            connection = http.client.HTTPConnection(host, port)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            answer = Answer(response.status, headers, response.read(), length)
            connection.close()
            self.reply(faults.spoil(self.command, self.path, answer))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def reply(self, answer: Answer | None) -> None:
            if answer is None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.send_response(answer.status)
            length = answer.length or str(len(answer.body))
            for name, value in [*answer.headers, ("Content-Length", length)]:
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(answer.body)
            self.close_connection = self.command != "HEAD" and int(length) != len(answer.body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    try:
        with serve(Proxy) as proxy:
            store = LocalS3(endpoint=f"http://127.0.0.1:{proxy}", faults=faults)
            for bucket in buckets or (BUCKET,):
                store.client().create_bucket(
                    Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": CREDENTIALS["AWS_REGION"]}
                )
            faults.requests.clear()
            yield store
    finally:
        connection = http.client.HTTPConnection(host, port)
        connection.request("POST", "/moto-api/reset")
        connection.getresponse().read()
        server.stop()
