"""Downloads from a local server that misbehaves."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext, request_context
from src.storage.http.download import Downloader
from src.storage.settings import DownloadLimits
from tests.src.storage.faulty_server import FILE, NUM_DRIPS, FakeDns, FaultyHandler, fresh_handler, serve

LOOPBACK = ip_network("127.0.0.0/8")
LIMITS = DownloadLimits(max_bytes=100_000, max_seconds=5, allow_http=True, networks=(LOOPBACK,))
NOT_PUBLIC = "not on the public internet"


@pytest.fixture
def handler() -> type[FaultyHandler]:
    return fresh_handler()


@pytest.fixture
def port(handler: type[FaultyHandler]) -> Iterator[int]:
    with serve(handler) as port:
        yield port


def fake_dns(**answers: list[str]) -> FakeDns:
    return FakeDns(**{"files_test": ["127.0.0.1"]} | answers)


def download(url: str, folder: Path, limits: DownloadLimits = LIMITS, resolve: Any = None) -> Path:
    path = folder / "image"
    Downloader(limits=limits, resolve=resolve or fake_dns()).download(url, path, name="image")
    return path


def error_of(url: str, folder: Path, limits: DownloadLimits = LIMITS, resolve: Any = None) -> str:
    """The error message of a download that fails; nothing may be left in the folder."""
    with pytest.raises(InputError, match=r"^image") as error:
        download(url, folder, limits, resolve)
    assert list(folder.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    "path", ["file", "chunked", "busy-once", "invalid-length", "redirect?/file", "redirect?redirect%3F/file"]
)
def test_a_file_is_downloaded(port: int, tmp_path: Path, path: str) -> None:
    url = f"http://files.test:{port}/{path.replace('redirect%3F', f'http://files.test:{port}/redirect?')}"
    assert download(url, tmp_path).read_bytes() == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_the_host_header_is_sent_and_no_proxy_used(
    port: int, handler: type[FaultyHandler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    download(f"http://files.test:{port}/file", tmp_path)
    assert handler.hosts == [f"files.test:{port}"]


@pytest.mark.parametrize(
    "path",
    [
        *("missing", "compressed", "truncated", "garbage", "long-header", "huge-length", "endless", "redirect-loop"),
        *("redirect?file:///etc/passwd", "redirect?ftp://files.test/x"),
    ],
)
def test_bad_responses_are_refused(port: int, tmp_path: Path, path: str) -> None:
    error_of(f"http://files.test:{port}/{path}", tmp_path)


@pytest.mark.parametrize("path", ["slow-body", "slow-headers", "endless-continue", "slow-trailers", "silent"])
def test_the_deadline_ends_slow_responses(port: int, handler: type[FaultyHandler], tmp_path: Path, path: str) -> None:
    message = error_of(f"http://files.test:{port}/{path}", tmp_path, replace(LIMITS, max_seconds=0.5))
    assert "MAX_DOWNLOAD_SECONDS" in message
    assert handler.drips_sent[f"/{path}"] < NUM_DRIPS / 2


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://files.test/x", "https://", "https:///x", "https://files.test:0/x", "https://files.test:99999/x"),
        *("https://files.test/a b", "https://files.test/\r\nHost: x", "https://fílés.test/x", "https://[::1/x"),
        *("https://user@files.test/x", "https://user:word@files.test/x"),
    ],
)
def test_invalid_urls_are_not_resolved(tmp_path: Path, url: str) -> None:
    resolve = fake_dns()
    error_of(url, tmp_path, resolve=resolve)
    assert resolve.queries == []


def test_http_only_if_the_operator_allows_it(port: int, handler: type[FaultyHandler], tmp_path: Path) -> None:
    error_of(f"http://files.test:{port}/file", tmp_path, replace(LIMITS, allow_http=False))
    assert not handler.requests


@pytest.mark.parametrize(
    "addresses", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00:ec2::254", "8.8.8.8 192.168.0.1"]
)
def test_private_addresses_are_refused_before_connecting(
    tmp_path: Path, addresses: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "create_connection", refuse_connection)
    monkeypatch.setattr(socket.socket, "connect", refuse_connection)
    limits, resolve = replace(LIMITS, networks=()), fake_dns(inside_test=[addresses])
    with caplog.at_level(logging.WARNING):
        message = error_of("https://inside.test/x", tmp_path, limits, resolve)
    assert NOT_PUBLIC in message
    assert not any(address in message for address in addresses.split())
    assert addresses.split()[-1] in caplog.text


def refuse_connection(*_: Any, **__: Any) -> None:
    raise AssertionError("a connection was opened")


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_every_spelling_of_loopback_is_refused(
    port: int, handler: type[FaultyHandler], tmp_path: Path, host: str
) -> None:
    downloader = Downloader(limits=replace(LIMITS, networks=()))
    with pytest.raises(InputError, match=NOT_PUBLIC):
        downloader.download(f"http://{host}:{port}/file", tmp_path / "image", name="image")
    assert not handler.requests


@pytest.mark.parametrize("location", ["http://10.0.0.1/x", "http://metadata.test/latest", "//169.254.169.254/"])
def test_redirects_to_private_addresses_are_refused(port: int, tmp_path: Path, location: str) -> None:
    resolve = fake_dns(metadata_test=["169.254.169.254"])
    assert NOT_PUBLIC in error_of(f"http://files.test:{port}/redirect?{location}", tmp_path, resolve=resolve)


def test_redirects_from_https_to_http_are_refused(tls_server: tuple[int, ssl.SSLContext], tmp_path: Path) -> None:
    port, context = tls_server
    downloader = Downloader(limits=replace(LIMITS, allow_http=False), resolve=fake_dns(), tls_context=context)
    with pytest.raises(InputError, match="only https"):
        downloader.download(f"https://files.test:{port}/redirect?http://files.test/x", tmp_path / "image", name="image")


def test_dns_rebinding_has_no_effect(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is resolved once, and the connection goes to the address that was checked."""
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(str(host))
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolve = fake_dns(rebinding_test=["127.0.0.1", "10.0.0.1"])
    assert download(f"http://rebinding.test:{port}/file", tmp_path, resolve=resolve).exists()
    assert resolve.queries == ["rebinding.test"]
    assert set(looked_up) <= {"127.0.0.1"}
    (tmp_path / "image").unlink()
    assert NOT_PUBLIC in error_of(f"http://rebinding.test:{port}/file", tmp_path, resolve=resolve)


def test_retries_check_the_address_again(port: int, handler: type[FaultyHandler], tmp_path: Path) -> None:
    resolve = fake_dns(rebinding_test=["127.0.0.1", "10.0.0.1"])
    assert NOT_PUBLIC in error_of(f"http://rebinding.test:{port}/busy-once", tmp_path, resolve=resolve)
    assert handler.requests["/busy-once"] == 1


def test_a_cancelled_request_ends_its_download(port: int, handler: type[FaultyHandler], tmp_path: Path) -> None:
    context = RequestContext(request_id="r1", cancelled=handler.third_drip)
    with pytest.raises(CancelledError), request_context(context):
        download(f"http://files.test:{port}/slow-body", tmp_path, replace(LIMITS, max_seconds=60))
    assert list(tmp_path.iterdir()) == []


def test_unknown_hosts_are_refused(tmp_path: Path) -> None:
    assert "'nowhere.test'" in error_of("https://nowhere.test/x", tmp_path)


def test_errors_do_not_repeat_the_query(port: int, tmp_path: Path) -> None:
    assert "secret" not in error_of(f"http://files.test:{port}/missing?signature=secret", tmp_path)


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[int, ssl.SSLContext]]:
    """The port of an https server for files.test, and a client context that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("files.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    wrap: Callable[..., object] = lambda plain: server.wrap_socket(plain, server_side=True)  # noqa: E731
    with serve(fresh_handler(), wrap) as port:
        yield port, client


def test_the_deadline_includes_the_tls_handshake(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://files.test:{mute.getsockname()[1]}/x"
        assert "MAX_DOWNLOAD_SECONDS" in error_of(url, tmp_path, replace(LIMITS, max_seconds=0.5))


def test_certificates_are_checked_against_the_host_name(tls_server: tuple[int, ssl.SSLContext], tmp_path: Path) -> None:
    port, context = tls_server
    limits, resolve = replace(LIMITS, allow_http=False), fake_dns(other_test=["127.0.0.1"])
    path = tmp_path / "image"
    downloader = Downloader(limits=limits, resolve=resolve, tls_context=context)
    downloader.download(f"https://files.test:{port}/file", path, name="image")
    assert path.read_bytes() == FILE
    with pytest.raises(InputError, match="Certificate"):
        downloader.download(f"https://other.test:{port}/file", path, name="image")
    with pytest.raises(InputError, match="SSLCert"):
        Downloader(limits=limits, resolve=resolve).download(f"https://files.test:{port}/file", path, name="image")
