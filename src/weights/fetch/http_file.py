"""A file on a web server, read like a local one: resumed where a connection broke, sought by ranges."""

import re
import time
from collections.abc import Callable

import requests
from urllib3.exceptions import HTTPError, IncompleteRead

from src.weights.errors import CorruptError, SourceError
from src.weights.retry import RetryPolicy, TransientError

BLOCK = 1 << 20
NEAR = 1 << 18  # bytes that are read over rather than asked for anew
SLOWEST = 1000  # bytes a second; less for `stall_s` counts as standing still
PASSING = {408, 425, 429, 500, 502, 503, 504}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RemoteFile:
    """`read`, `seek` and `tell` over HTTP.

    Faults that may pass are retried; attempts count anew with every byte that arrives. Raises SourceError when the
    server has no such file or stays out of reach, CorruptError when the file changes while it is read.
    """

    def __init__(self, url: str, patience: RetryPolicy) -> None:
        self.url = url
        self.patience = patience
        self.session = requests.Session()
        self.session.headers["Accept-Encoding"] = "identity"
        self.response: requests.Response | None = None
        self.size = -1
        self.version = ""
        self.position = 0  # of the reader
        self.arrived = 0  # of the connection: the offset of the byte that comes next
        self.block = b""  # the last one that came; it ends at `arrived`
        self.came, self.since = 0, time.monotonic()  # bytes since when, for the stall watch
        self.fetch(self.connect)

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self.disconnect()
        self.session.close()

    def tell(self) -> int:
        """The reader's offset in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the beginning (0), from here (1) or from the end (2)."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, count: int = -1) -> bytes:
        """`count` bytes from here, fewer only at the end of the file."""
        wanted = max(0, self.size - self.position)
        wanted = wanted if count < 0 else min(count, wanted)
        parts = []
        while wanted:
            part = self.some(wanted)
            parts.append(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, most: int) -> bytes:
        """1 to `most` bytes from here, as they have come."""
        begin = self.position - (self.arrived - len(self.block))
        if not 0 <= begin < len(self.block):
            begin = 0
            self.fetch(self.advance)
        part = self.block[begin : begin + most]
        self.position += len(part)
        return part

    def fetch(self, step: Callable[[], None]) -> None:
        """Take one step of the download, as patiently as we are allowed to be."""
        self.patience.check()
        try:
            self.patience.retrying()(step)
        except TransientError as error:
            self.patience.check()
            raise SourceError(f"{error}, {self.patience.attempts} times in a row") from error

    def advance(self) -> None:
        """Make `block` begin at the reader's position."""
        if self.response is None or not 0 <= self.position - self.arrived <= NEAR:
            self.connect()
        while self.arrived <= self.position:
            self.block = self.receive()
            self.arrived += len(self.block)
        self.block = self.block[len(self.block) - (self.arrived - self.position) :]

    def receive(self) -> bytes:
        """The next bytes of the connection; TransientError if none come."""
        assert self.response is not None
        self.patience.check()
        try:
            block: bytes = self.response.raw.read1(BLOCK)
        except (HTTPError, OSError) as error:
            if not isinstance(error.__cause__, IncompleteRead):
                raise self.fault(brief(error)) from error
            block = b""
        if not block:
            raise self.fault(f"the connection ended at byte {self.arrived:,} of {self.size:,}")
        self.watch(len(block))
        return block

    def watch(self, count: int) -> None:
        """SourceError when `count` new bytes are all too few for the time since the last look."""
        self.came += count
        if (elapsed := time.monotonic() - self.since) >= self.patience.stall_s:
            if self.came < SLOWEST * elapsed:
                raise SourceError(f"{self.url} stands nearly still: {self.came:,} bytes in {elapsed:.0f} s")
            self.came, self.since = 0, time.monotonic()

    def connect(self) -> None:
        """Ask for the bytes from the reader's position on; a server without ranges sends everything."""
        self.disconnect()
        try:
            response = self.session.get(
                self.url,
                headers={"Range": f"bytes={self.position}-"},
                stream=True,
                timeout=(self.patience.connect_s, self.patience.read_s),
            )
        except (requests.RequestException, OSError) as error:
            raise self.fault(brief(error)) from error
        self.response = response
        if response.status_code in PASSING:
            raise self.fault(f"HTTP {response.status_code}")
        if response.status_code not in (200, 206):
            self.disconnect()
            raise SourceError(f"{self.url}: HTTP {response.status_code} {response.reason}")
        self.arrived, size = extent(response)
        if self.arrived > self.position:
            raise SourceError(f"{self.url} sends bytes from {self.arrived:,} on, not from {self.position:,}")
        self.identify(size, response)

    def identify(self, size: int, response: requests.Response) -> None:
        """Hold on to the file's length and version at first; later ones must be the same."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if self.size < 0:
            self.size, self.version = size, version
        elif (size, version) != (self.size, self.version):
            raise CorruptError(f"{self.url} changed on the server while it was read")

    def disconnect(self) -> None:
        """Drop the connection, and what came last."""
        if self.response is not None:
            self.response.close()
        self.response, self.block = None, b""

    def fault(self, what: str) -> TransientError:
        """A passing fault; the connection is of no more use."""
        self.disconnect()
        return TransientError(f"{self.url}: {what}")


def extent(response: requests.Response) -> tuple[int, int]:
    """The offset at which a response begins, and the length of the whole file."""
    if response.status_code == 206:
        if found := CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")):
            return int(found[1]), int(found[3])
        raise SourceError(f"{response.url} answers ranges without saying which")
    length = response.headers.get("Content-Length", "")
    if not length.isdigit() or "Content-Encoding" in response.headers:
        raise SourceError(f"{response.url} does not say how long it is")
    return 0, int(length)


def brief(error: BaseException) -> str:
    """The innermost reason of a network error, in a few words."""
    while isinstance(inner := error.__cause__ or error.__context__, Exception):
        error = inner
    return str(error).splitlines()[0] if str(error) else type(error).__name__
