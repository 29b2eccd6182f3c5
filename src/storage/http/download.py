"""A file from a stranger's URL: bounded in bytes and in time, and from public addresses only.

A name is resolved once for each connection, its addresses are judged, and the connection goes to one of exactly
these: a name that changes its mind in between gains nothing. Redirects are followed here, one by one, each judged
anew. Proxies of the environment are not used, since they would resolve names themselves.
"""

import logging
import re
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from src.errors import InputError, truncated_repr
from src.storage.errors import DownloadTooLongError, TransientError
from src.storage.http.connection import brief, open_connection, port_of, time_left, tls_context
from src.storage.http.ip_policy import Address, Resolve, is_allowed, resolve
from src.storage.settings import DownloadLimits

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5
MAX_ATTEMPTS = 3
PAUSE_S = 0.5
LENGTH = re.compile(r"[0-9]{1,18}")
REDIRECT_STATUS = {301, 302, 303, 307, 308}
RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}

Check = Callable[[], None]
"""Raises when the file is not wanted any more."""


def always_wanted() -> None:
    """For files that are always wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Fetches URLs within `limits`; `resolve` and `tls_context` are what the tests replace."""

    limits: DownloadLimits
    resolve: Resolve = resolve
    trust: ssl.SSLContext = field(default_factory=tls_context)

    def fetch(self, url: str, path: Path, *, name: str, check: Check = always_wanted) -> None:
        """Write the file to `path`, which exists afterwards only if it is whole. `check` is asked at every block.

        Raises InputError, which names the input and never an address, for anything that is not as it should be.
        """
        draft = path.with_name(f"{path.name}.part")
        deadline = time.monotonic() + self.limits.max_seconds
        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_fixed(PAUSE_S),
            reraise=True,
        )
        try:
            retrying(self.follow, url, draft, name, deadline, check)
            draft.replace(path)
        except DownloadTooLongError as error:
            raise too_late(shown(url), self.limits, name) from error
        except TransientError as error:
            raise InputError(f"{name}: {shown(url)} cannot be fetched: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def follow(self, url: str, draft: Path, name: str, deadline: float, check: Check) -> None:
        """One attempt, through its redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            check()
            parts = self.judge(url, name)
            addresses = self.addresses(parts, name)
            with (
                open_connection(parts, addresses, self.trust, deadline) as connection,
                closing(send_request(connection, parts, deadline)) as response,
            ):
                if response.status not in REDIRECT_STATUS or not response.headers.get("Location"):
                    stated = self.promised(response, url, name)
                    self.save(response, stated, draft, name, deadline, check)
                    return
                url = urljoin(url, response.headers["Location"])
        raise InputError(f"{name}: {shown(url)} redirects more than {MAX_REDIRECTS} times; at most so often is allowed")

    def judge(self, url: str, name: str) -> SplitResult:
        """The parts of a URL that may be asked; InputError for any other."""
        allowed = ("https", "http") if self.limits.http else ("https",)
        try:
            parts = urlsplit(url)
            sound = bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
        except ValueError:
            parts, sound = SplitResult("", "", "", "", ""), False
        if parts.scheme == "http" and "http" not in allowed:
            raise InputError(f"{name} is {shown(url)}; only https is allowed (the operator sets MULTITALK_HTTP)")
        if not sound or parts.scheme not in allowed:
            raise InputError(f"{name} is {shown(url)}; a URL like https://example.org/file is needed")
        if parts.username is not None or parts.password is not None:
            raise InputError(f"{name}: the URL holds a user name or a password; one without is needed")
        return parts

    def addresses(self, parts: SplitResult, name: str) -> list[Address]:
        """Where a name leads; InputError unless every one of its addresses is permitted."""
        host = parts.hostname or ""
        try:
            found = self.resolve(host, port_of(parts))
        except (OSError, UnicodeError) as error:
            raise InputError(f"{name}: there is no host {truncated_repr(host)}; a public one is needed") from error
        refused = [address for address in found if not is_allowed(address, self.limits.networks)]
        if refused:
            logger.warning("%s: the host of a URL was refused: it leads to %s", name, ", ".join(map(str, refused)))
            raise InputError(
                f"{name}: the host {truncated_repr(host)} is not on the public internet; a public one is needed"
            )
        return found

    def promised(self, response: BaseHTTPResponse, url: str, name: str) -> int | None:
        """How many bytes an answer's head announces, if it does; InputError for an answer that is no plain file."""
        if response.status in RETRYABLE_STATUS:
            raise TransientError(f"HTTP {response.status}")
        if response.status != 200:
            raise InputError(f"{name}: {shown(url)} answers HTTP {response.status}; a file (200) is needed")
        if (packing := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise InputError(
                f"{name}: {shown(url)} is sent compressed ({truncated_repr(packing)}); a plain file is needed"
            )
        stated = int(text) if LENGTH.fullmatch(text := response.headers.get("Content-Length", "")) else None
        check_size(stated or 0, self.limits, name)
        return stated

    def save(
        self, response: BaseHTTPResponse, stated: int | None, draft: Path, name: str, deadline: float, check: Check
    ) -> None:
        """The body into `draft`, counted as it comes."""
        count = 0
        with draft.open("wb") as file:
            while block := receive(response, deadline):
                check()
                count += len(block)
                check_size(count, self.limits, name)
                file.write(block)
        time_left(deadline)
        if stated is not None and count != stated:
            raise TransientError(f"the connection ended at byte {count:,} of {stated:,}")


def send_request(connection: HTTPConnection, parts: SplitResult, deadline: float) -> BaseHTTPResponse:
    """The answer's head."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    headers = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "multitalk"}
    try:
        connection.request("GET", target, headers=headers, preload_content=False)
        return connection.getresponse()
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        time_left(deadline)
        raise TransientError(brief(error)) from error


def receive(response: BaseHTTPResponse, deadline: float) -> bytes:
    """The next bytes, as few as have come."""
    try:
        block: bytes = response.read1(CHUNK_BYTES)
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        time_left(deadline)
        raise TransientError(brief(error)) from error
    time_left(deadline)
    return block


def check_size(count: int, limits: DownloadLimits, name: str) -> None:
    """InputError for a file of more bytes than allowed."""
    if count > limits.max_bytes:
        raise InputError(
            f"{name} has {count:,} bytes or more; at most {limits.max_bytes:,} are allowed "
            "(the operator sets MAX_INPUT_MB)"
        )


def too_late(what: str, limits: DownloadLimits, name: str) -> InputError:
    """For a file that took longer than allowed."""
    return InputError(
        f"{name}: {what} was not here after {limits.max_seconds:g} s; no more are allowed "
        "(the operator sets MAX_DOWNLOAD_SECONDS)"
    )


def shown(url: str) -> str:
    """A URL as a message repeats it: without the query, which may hold a signature."""
    return truncated_repr(url.partition("?")[0])
