"""HTTP connection pinned to a validated IP address, closed at a deadline."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from urllib.parse import SplitResult

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_match_hostname import CertificateError

from src.errors import TransientError
from src.serving.cancellation import cancel_event
from src.storage.errors import DownloadTimeoutError
from src.storage.http.ip_policy import Address

DEFAULT_PORTS = {"https": 443, "http": 80}
CANCEL_POLL_S = 0.1
READ_TIMEOUT_S = 15.0
"""The longest time without any byte from the server."""


def make_tls_context() -> ssl.SSLContext:
    """Trusts the system's certificates and certifi's: slim images have no system certificates."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def port_of(parts: SplitResult) -> int:
    """The port of a URL."""
    return parts.port or DEFAULT_PORTS[parts.scheme]


@contextmanager
def open_connection(
    parts: SplitResult, addresses: Sequence[Address], context: ssl.SSLContext, deadline: float
) -> Iterator[HTTPConnection]:
    """A connection to the first of the addresses that accepts one; TransientError if none does.

    The URL's host name is used for TLS only and not resolved again.
    """
    fault: Exception | None = None
    for address in addresses:
        connection = make_connection(parts, address, context, min(READ_TIMEOUT_S, time_left(deadline)))
        with closing(connection):
            try:
                connection.connect()
            except (HTTPError, CertificateError, OSError) as error:
                fault = error
                continue
            with enforce_deadline(connection, deadline):
                yield connection
            return
    raise TransientError(f"no connection to {parts.hostname} ({error_kind(fault)})") from fault


def make_connection(parts: SplitResult, address: Address, context: ssl.SSLContext, timeout: float) -> HTTPConnection:
    """A connection object that is not connected yet."""
    if parts.scheme == "http":
        return HTTPConnection(str(address), port_of(parts), timeout=timeout)
    return HTTPSConnection(
        str(address),
        port_of(parts),
        timeout=timeout,
        ssl_context=context,
        server_hostname=parts.hostname,
        assert_hostname=parts.hostname,
    )


@contextmanager
def enforce_deadline(connection: HTTPConnection, deadline: float) -> Iterator[None]:
    """Shut the connection's socket down at the deadline, or when the request is cancelled.

    A read timeout alone never fires while bytes trickle in, and a blocked read notices no cancellation.
    """
    assert connection.sock is not None
    dup_socket = socket.socket(fileno=os.dup(connection.sock.fileno()))
    done, cancelled = threading.Event(), cancel_event()

    def watch() -> None:
        while not done.wait(min(CANCEL_POLL_S, max(deadline - time.monotonic(), 0))):
            if cancelled.is_set() or time.monotonic() >= deadline:
                shutdown_socket(dup_socket)
                return

    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        dup_socket.close()


def shutdown_socket(dup_socket: socket.socket) -> None:
    """Shut down both directions, so that a blocked reader gets the end of the stream."""
    with suppress(OSError):
        dup_socket.shutdown(socket.SHUT_RDWR)


def time_left(deadline: float) -> float:
    """Seconds until the deadline (`time.monotonic`); DownloadTimeoutError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise DownloadTimeoutError
    return seconds


def error_kind(error: BaseException | None) -> str:
    """The type of a network error. Its text is not repeated: it may hold an internal address."""
    return type(error).__name__.removesuffix("Error") if error else "no address"
