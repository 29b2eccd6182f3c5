"""Download a URL named by a request: bounded in bytes and time, from public addresses only.

The host is resolved once per connection, its addresses are checked, and the connection goes to one of exactly these,
so that DNS rebinding has no effect. Redirects are followed one by one, each checked the same way. Proxies from the
environment are not used, since they would resolve host names themselves.
"""

import logging
import re
import ssl
import time
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from src.errors import RETRYABLE_STATUS, InputError, TransientError, truncated_repr
from src.serving.cancellation import raise_if_cancelled
from src.storage.errors import DownloadTimeoutError
from src.storage.http.connection import error_kind, make_tls_context, open_connection, port_of, time_left
from src.storage.http.ip_policy import Address, Resolve, is_allowed, resolve
from src.storage.settings import LORA_FILES, DownloadLimits

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5
MAX_ATTEMPTS = 3
RETRY_DELAY_S = 0.5
CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
REDIRECT_STATUS = {301, 302, 303, 307, 308}
NETWORK_ERRORS = (HTTPError, HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Downloads URLs within `limits`; tests replace `resolve` and `tls_context`."""

    limits: DownloadLimits
    resolve: Resolve = resolve
    tls_context: ssl.SSLContext = field(default_factory=make_tls_context)

    def download(self, url: str, path: Path, *, name: str) -> None:
        """Write the file to `path`, which exists afterwards only if it is complete.

        Raises InputError, which names the input `name` and never an IP address, for a URL that is not allowed or
        cannot be downloaded within the limits; CancelledError if the request is cancelled meanwhile.
        """
        tmp_path = path.with_name(f"{path.name}.part")
        deadline = time.monotonic() + self.limits.max_seconds
        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_fixed(RETRY_DELAY_S),
            reraise=True,
        )
        try:
            retrying(self.fetch_once, url, tmp_path, name, deadline)
            tmp_path.replace(path)
        except DownloadTimeoutError as error:
            raise timeout_error(quote_url(url), self.limits, name) from error
        except TransientError as error:
            raise InputError(f"{name}: {quote_url(url)} cannot be fetched: {error}") from error
        finally:
            tmp_path.unlink(missing_ok=True)

    def fetch_once(self, url: str, tmp_path: Path, name: str, deadline: float) -> None:
        """One attempt, redirects included."""
        for _ in range(MAX_REDIRECTS + 1):
            raise_if_cancelled()
            parts = self.parse_url(url, name)
            addresses = self.resolve_host(parts, name)
            with (
                open_connection(parts, addresses, self.tls_context, deadline) as connection,
                closing(send_request(connection, parts, deadline)) as response,
            ):
                if response.status not in REDIRECT_STATUS or not response.headers.get("Location"):
                    length = self.check_response(response, url, name)
                    self.write_body(response, length, tmp_path, name, deadline)
                    return
                url = urljoin(url, response.headers["Location"])
        raise InputError(f"{name}: {quote_url(url)} redirects more than {MAX_REDIRECTS} times, which is not allowed")

    def parse_url(self, url: str, name: str) -> SplitResult:
        """The parts of an allowed URL; InputError for any other."""
        try:
            parts = urlsplit(url)
            valid = bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
        except ValueError:
            parts, valid = SplitResult("", "", "", "", ""), False
        if parts.scheme == "http" and not self.limits.allow_http:
            raise InputError(f"{name} is {quote_url(url)}; only https is allowed (the operator sets MULTITALK_HTTP)")
        if not valid or parts.scheme not in {"https", "http"}:
            raise InputError(f"{name} is {quote_url(url)}; a URL like https://example.org/file is needed")
        if parts.username is not None or parts.password is not None:
            raise InputError(f"{name}: the URL holds a user name or a password; one without is needed")
        return parts

    def resolve_host(self, parts: SplitResult, name: str) -> list[Address]:
        """The addresses of a URL's host; InputError unless every one of them is allowed."""
        host = parts.hostname or ""
        try:
            addresses = self.resolve(host, port_of(parts))
        except (OSError, UnicodeError) as error:
            raise InputError(f"{name}: there is no host {truncated_repr(host)}; a public one is needed") from error
        refused = [address for address in addresses if not is_allowed(address, self.limits.networks)]
        if refused:
            logger.warning("%s: refused a URL whose host resolves to %s", name, ", ".join(map(str, refused)))
            raise InputError(
                f"{name}: the host {truncated_repr(host)} is not on the public internet; a public one is needed"
            )
        return addresses

    def check_response(self, response: BaseHTTPResponse, url: str, name: str) -> int | None:
        """The response's Content-Length, if it has one. InputError unless it is a file that is sent uncompressed,
        TransientError for a status that may pass."""
        if response.status in RETRYABLE_STATUS:
            raise TransientError(f"HTTP {response.status}")
        if response.status != 200:
            raise InputError(f"{name}: {quote_url(url)} answers HTTP {response.status}; a file (200) is needed")
        if (encoding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise InputError(
                f"{name}: {quote_url(url)} is sent compressed ({truncated_repr(encoding)}); a plain file is needed"
            )
        text = response.headers.get("Content-Length", "")
        length = int(text) if CONTENT_LENGTH.fullmatch(text) else None
        check_size(length or 0, self.limits, name)
        return length

    def write_body(
        self, response: BaseHTTPResponse, length: int | None, tmp_path: Path, name: str, deadline: float
    ) -> None:
        """Write the body to `tmp_path`; TransientError if it is shorter than `length`."""
        count = 0
        with tmp_path.open("wb") as file:
            while chunk := read_chunk(response, deadline):
                raise_if_cancelled()
                count += len(chunk)
                check_size(count, self.limits, name)
                file.write(chunk)
        time_left(deadline)
        raise_if_cancelled()
        if length is not None and count != length:
            raise TransientError(f"the connection ended at byte {count:,} of {length:,}")


def send_request(connection: HTTPConnection, parts: SplitResult, deadline: float) -> BaseHTTPResponse:
    """Send a GET request; the response with its body unread."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    headers = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "multitalk"}
    try:
        connection.request("GET", target, headers=headers, preload_content=False)
        return connection.getresponse()
    except NETWORK_ERRORS as error:
        time_left(deadline)
        raise TransientError(error_kind(error)) from error


def read_chunk(response: BaseHTTPResponse, deadline: float) -> bytes:
    """The bytes that have arrived, at most CHUNK_BYTES; empty at the end of the body."""
    try:
        chunk: bytes = response.read1(CHUNK_BYTES)
    except NETWORK_ERRORS as error:
        time_left(deadline)
        raise TransientError(error_kind(error)) from error
    time_left(deadline)
    return chunk


def check_size(num_bytes: int, limits: DownloadLimits, name: str) -> None:
    """InputError for a file of more bytes than allowed."""
    is_lora = name.startswith(LORA_FILES)
    max_bytes, variable = (limits.max_lora_bytes, "MAX_LORA_MB") if is_lora else (limits.max_bytes, "MAX_INPUT_MB")
    if num_bytes > max_bytes:
        raise InputError(
            f"{name} has {num_bytes:,} bytes or more; at most {max_bytes:,} are allowed (the operator sets {variable})"
        )


def timeout_error(source: str, limits: DownloadLimits, name: str) -> InputError:
    """The error for a file that took longer than allowed."""
    return InputError(
        f"{name}: {source} was not here after {limits.max_seconds:g} s; no more are allowed "
        "(the operator sets MAX_DOWNLOAD_SECONDS)"
    )


def quote_url(url: str) -> str:
    """A URL for an error message, without its query, which may hold a signature."""
    return truncated_repr(url.partition("?")[0])
