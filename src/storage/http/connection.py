"""A connection to an address that has been judged, and its end at a deadline."""

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

from src.storage.errors import DownloadTooLongError, TransientError
from src.storage.http.ip_policy import Address

PORTS = {"https": 443, "http": 80}
READ_TIMEOUT_S = 15.0
"""How long a server may say nothing at all."""


def tls_context() -> ssl.SSLContext:
    """The system's certificates and certifi's: slim images have none of their own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def port_of(parts: SplitResult) -> int:
    """The port of a URL."""
    return parts.port or PORTS[parts.scheme]


@contextmanager
def open_connection(
    parts: SplitResult, addresses: Sequence[Address], context: ssl.SSLContext, deadline: float
) -> Iterator[HTTPConnection]:
    """A connection to the first of the addresses that answers; TransientError when none does.

    The name in the URL serves for TLS only; it is not resolved again.
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
    raise TransientError(f"no connection to {parts.hostname} ({brief(fault)})") from fault


def make_connection(parts: SplitResult, address: Address, context: ssl.SSLContext, timeout: float) -> HTTPConnection:
    """A connection that is not open yet."""
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
    """Cut the connection at the deadline, whatever trickles in: a drop now and then must not keep us."""
    assert connection.sock is not None
    twin = socket.socket(fileno=os.dup(connection.sock.fileno()))
    timer = threading.Timer(time_left(deadline), shutdown_socket, [twin])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def shutdown_socket(twin: socket.socket) -> None:
    """End both directions; the reader then meets the end of the file."""
    with suppress(OSError):
        twin.shutdown(socket.SHUT_RDWR)


def time_left(deadline: float) -> float:
    """Seconds until the deadline; DownloadTooLongError when it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise DownloadTooLongError
    return seconds


def brief(error: BaseException | None) -> str:
    """What kind of fault it was. The text of a network error may hold an address, so it is not repeated."""
    return type(error).__name__.removesuffix("Error") if error else "no address"
