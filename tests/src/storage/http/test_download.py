"""Downloads from a real web server that misbehaves."""

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from src.errors import InputError
from src.storage.http.download import Downloader
from src.storage.settings import DownloadLimits
from tests.src.storage.web import FILE, Names, Web, serving

LOOPBACK = ip_network("127.0.0.0/8")
LIMITS = DownloadLimits(max_bytes=100_000, max_seconds=5, http=True, networks=(LOOPBACK,))


@pytest.fixture
def web() -> type[Web]:
    """A handler with counters of its own."""
    return type("Web", (Web,), {"asked": Counter(), "hosts": []})


@pytest.fixture
def port(web: type[Web]) -> Iterator[int]:
    with serving(web) as port:
        yield port


def names(**turns: list[str]) -> Names:
    return Names(**{"files_test": ["127.0.0.1"]} | turns)


def fetch(url: str, folder: Path, limits: DownloadLimits = LIMITS, resolve: Any = None) -> Path:
    path = folder / "image"
    Downloader(limits=limits, resolve=resolve or names()).fetch(url, path, name="image")
    return path


def refusal(url: str, folder: Path, limits: DownloadLimits = LIMITS, resolve: Any = None) -> str:
    """The message, after which nothing is in the folder."""
    with pytest.raises(InputError, match=r"^image") as error:
        fetch(url, folder, limits, resolve)
    assert list(folder.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize("path", ["file", "chunks", "busy-once", "odd-length", "to?/file", "to?to%3F/file"])
def test_a_file_arrives(port: int, tmp_path: Path, path: str) -> None:
    url = f"http://files.test:{port}/{path.replace('to%3F', f'http://files.test:{port}/to?')}"
    assert fetch(url, tmp_path).read_bytes() == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_the_host_is_named_and_no_proxy_used(
    port: int, web: type[Web], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(f"http://files.test:{port}/file", tmp_path)
    assert web.hosts == [f"files.test:{port}"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", ["HTTP 404", "a file (200)"]),
        ("packed", ["compressed ('gzip')", "a plain file is needed"]),
        ("cut", ["cannot be fetched"]),
        ("garbage", ["cannot be fetched: BadStatusLine"]),
        ("long-head", ["cannot be fetched: LineTooLong"]),
        ("claims-much", ["1,000,000,000,000 bytes", "at most 100,000", "MAX_INPUT_MB"]),
        ("endless", ["at most 100,000"]),
        ("loop", ["redirects more than 5 times"]),
        ("to?file:///etc/passwd", ["file:///etc/passwd", "https://"]),
        ("to?ftp://files.test/x", ["ftp://files.test/x", "https://"]),
    ],
)
def test_what_is_no_file_within_the_limits(port: int, tmp_path: Path, path: str, words: list[str]) -> None:
    message = refusal(f"http://files.test:{port}/{path}", tmp_path)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("path", ["drips", "drips-its-head", "goes-on", "has-an-endless-tail", "silent"])
def test_time_is_bounded_however_it_trickles(port: int, tmp_path: Path, path: str) -> None:
    started = time.monotonic()
    message = refusal(f"http://files.test:{port}/{path}", tmp_path, replace(LIMITS, max_seconds=0.5))
    assert time.monotonic() - started < 2
    assert "was not here after 0.5 s" in message
    assert "MAX_DOWNLOAD_SECONDS" in message


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://files.test/x", "https://", "https:///x", "https://files.test:0/x", "https://files.test:99999/x"),
        *("https://files.test/a b", "https://files.test/\r\nHost: x", "https://fílés.test/x", "https://[::1/x"),
        *("https://user@files.test/x", "https://user:word@files.test/x"),
    ],
)
def test_urls_that_are_not_asked(tmp_path: Path, url: str) -> None:
    resolve = names()
    assert "needed" in refusal(url, tmp_path, resolve=resolve)
    assert resolve.asked == []


def test_only_https_unless_the_operator_says(port: int, tmp_path: Path) -> None:
    message = refusal(f"http://files.test:{port}/file", tmp_path, replace(LIMITS, http=False))
    assert "only https is allowed" in message
    assert "MULTITALK_HTTP" in message


@pytest.mark.parametrize(
    "addresses", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00:ec2::254", "8.8.8.8 192.168.0.1"]
)
def test_names_of_places_inside_are_refused_before_connecting(
    tmp_path: Path, addresses: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    with caplog.at_level(logging.WARNING):
        message = refusal(
            "https://inside.test/x", tmp_path, replace(LIMITS, networks=()), names(inside_test=[addresses])
        )
    assert "'inside.test' is not on the public internet" in message
    assert not any(address in message for address in addresses.split())
    assert addresses.split()[-1] in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_spellings_of_this_machine(port: int, web: type[Web], tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="not on the public internet"):
        Downloader(limits=replace(LIMITS, networks=())).fetch(
            f"http://{host}:{port}/file", tmp_path / "image", name="image"
        )
    assert not web.asked


def unreachable(*_: Any, **__: Any) -> None:
    raise AssertionError("a connection was tried")


@pytest.mark.parametrize("location", ["http://10.0.0.1/x", "http://metadata.test/latest", "//169.254.169.254/"])
def test_a_redirect_is_judged_as_well(port: int, tmp_path: Path, location: str) -> None:
    resolve = names(metadata_test=["169.254.169.254"])
    message = refusal(f"http://files.test:{port}/to?{location}", tmp_path, resolve=resolve)
    assert "is not on the public internet" in message


def test_a_redirect_from_https_to_http_is_refused(secure: tuple[int, ssl.SSLContext], tmp_path: Path) -> None:
    port, context = secure
    downloader = Downloader(limits=replace(LIMITS, http=False), resolve=names(), trust=context)
    with pytest.raises(InputError, match="only https is allowed"):
        downloader.fetch(f"https://files.test:{port}/to?http://files.test/x", tmp_path / "image", name="image")


def test_a_name_that_changes_its_mind_gains_nothing(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is resolved once, and what is connected to is what was judged."""
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        looked_up.append(str(host))
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolve = names(rebinding_test=["127.0.0.1", "10.0.0.1"])
    assert fetch(f"http://rebinding.test:{port}/file", tmp_path, resolve=resolve).exists()
    assert resolve.asked == ["rebinding.test"]
    assert set(looked_up) <= {"127.0.0.1"}
    (tmp_path / "image").unlink()
    assert "not on the public internet" in refusal(f"http://rebinding.test:{port}/file", tmp_path, resolve=resolve)


def test_a_retry_judges_again(port: int, web: type[Web], tmp_path: Path) -> None:
    resolve = names(rebinding_test=["127.0.0.1", "10.0.0.1"])
    assert "not on the public" in refusal(f"http://rebinding.test:{port}/busy-once", tmp_path, resolve=resolve)
    assert web.asked["/busy-once"] == 1


def test_what_is_not_wanted_any_more_is_not_fetched_to_its_end(port: int, web: type[Web], tmp_path: Path) -> None:
    class GoneError(BaseException):
        """As a request is stopped: no Exception."""

    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) > 3:
            raise GoneError

    started = time.monotonic()
    with pytest.raises(GoneError):
        Downloader(limits=LIMITS, resolve=names()).fetch(
            f"http://files.test:{port}/drips", tmp_path / "image", name="image", check=check
        )
    assert time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    assert "there is no host 'nowhere.test'" in refusal("https://nowhere.test/x", tmp_path)


def test_the_query_is_not_repeated(port: int, tmp_path: Path) -> None:
    assert "secret" not in refusal(f"http://files.test:{port}/missing?signature=secret", tmp_path)


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[int, ssl.SSLContext]]:
    """An https server for files.test, and a context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("files.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    handler = type("Web", (Web,), {"asked": Counter(), "hosts": []})
    wrap: Callable[..., object] = lambda plain: server.wrap_socket(plain, server_side=True)  # noqa: E731
    with serving(handler, wrap) as port:
        yield port, client


def test_time_is_bounded_before_the_first_answer(tmp_path: Path) -> None:
    """By a host that accepts and then says nothing, where TLS is to begin."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://files.test:{mute.getsockname()[1]}/x"
        started = time.monotonic()
        message = refusal(url, tmp_path, replace(LIMITS, max_seconds=0.5))
        assert time.monotonic() - started < 3
    assert "was not here after 0.5 s" in message


def test_https_checks_the_name_and_not_the_address(secure: tuple[int, ssl.SSLContext], tmp_path: Path) -> None:
    port, context = secure
    limits = replace(LIMITS, http=False)
    resolve = names(other_test=["127.0.0.1"])
    path = tmp_path / "image"
    downloader = Downloader(limits=limits, resolve=resolve, trust=context)
    downloader.fetch(f"https://files.test:{port}/file", path, name="image")
    assert path.read_bytes() == FILE
    with pytest.raises(InputError, match="Certificate"):
        downloader.fetch(f"https://other.test:{port}/file", path, name="image")
    with pytest.raises(InputError, match="SSLCert"):
        Downloader(limits=limits, resolve=resolve).fetch(f"https://files.test:{port}/file", path, name="image")
