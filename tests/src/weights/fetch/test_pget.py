"""pget as a subprocess, and tars that are not trusted."""

import io
import os
import random
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import CancelledError, CorruptDownloadError, SourceError, WeightsError
from src.weights.fetch.pget import check_tree, download, find_pget, unpack
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from tests.src.weights.conftest import POLICY, StandIn
from tests.src.weights.samples import bundle, list_dir, tar, tiny_files, tree, write
from tests.src.weights.server import Answer, Server

FILES = tiny_files(100_000)
LINK, HARD, FILE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE


def members(*entries: tuple[str, bytes, str]) -> bytes:
    """A tar of entries (name, type, link target) after a harmless file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target in (("first", FILE, ""), *entries):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = 4 if kind == FILE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return file.getvalue()


def header(kind: bytes, size: int) -> bytes:
    """A tar header of this type that declares this size, without the data."""
    member = tarfile.TarInfo("name")
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" + (256**11 + size).to_bytes(12, "big")[-11:] if size < 0 else b"%011o\0" % size
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


MALICIOUS = {
    "parent in a name": members(("../evil", FILE, "")),
    "parent within a name": members(("a/../../evil", FILE, "")),
    "sibling with the folder's prefix": members(("../tree-evil", FILE, "")),
    "absolute link": members(("link", LINK, "/etc/passwd")),
    "link to the parent": members(("a/link", LINK, "../../evil")),
    "hard link to the parent": members(("link", HARD, "../outside")),
    "device": members(("null", tarfile.CHRTYPE, "")),
    "pipe": members(("pipe", tarfile.FIFOTYPE, "")),
    "file through a link": members(("d", LINK, ".."), ("d/evil", FILE, "")),
    "links that climb together": members(("b", LINK, "."), ("a", LINK, "b/.."), ("a/evil", LINK, "first")),
    "folder that is a file": members(("first/evil", FILE, "")),
    "sparse file": members(("holes", tarfile.GNUTYPE_SPARSE, "")),
    "long name of a gigabyte": header(tarfile.GNUTYPE_LONGNAME, 10**9) + bytes(1024),
    "long name of negative size": header(tarfile.GNUTYPE_LONGNAME, -512) + bytes(1024),
    "attributes of a gigabyte": header(tarfile.XHDTYPE, 10**9) + bytes(1024),
    "file of negative size": header(FILE, -1024) + bytes(1024),
    "nested headers": header(tarfile.GNUTYPE_LONGNAME, 512) * 5000 + bytes(1024),
    "empty": b"",
    "HTML": b"<html>not found</html>" * 100,
    "compressed": b"\x1f\x8b\x08\x00" + bytes(600),
    "truncated": tar(FILES)[:50_000],
}


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.fixture
def fetch(server: Server, tmp_path: Path, pget: StandIn) -> Callable[..., Path]:
    server.files["/tiny.tar"] = tar(FILES)

    def fetch(policy: RetryPolicy = POLICY, trusted: bool = False) -> Path:
        program = find_pget()
        assert program is not None
        return download(program, f"{server.url}/tiny.tar", tmp_path / "run", policy, trusted=trusted)

    return fetch


@pytest.mark.parametrize(("trusted", "arguments"), [(True, "-xf {} {}/tree"), (False, "-f {} {}/tar")])
def test_only_trusted_tars_are_unpacked_by_pget(
    server: Server, tmp_path: Path, pget: StandIn, fetch: Callable[..., Path], trusted: bool, arguments: str
) -> None:
    assert tree(fetch(trusted=trusted)) == FILES
    assert pget.calls == [arguments.format(f"{server.url}/tiny.tar", tmp_path / "run")]
    assert sorted(os.listdir(tmp_path / "run")) == ["log", "tree"]


@pytest.mark.parametrize("script", ["echo usage: pget URL", "exit 1", "echo 'pget 1.2'"])
def test_another_program_of_that_name_is_not_used(pget: StandIn, script: str) -> None:
    pget.program.write_text(f"#!/bin/sh\n{script}\n")
    assert find_pget() is None


def test_stall_is_detected(server: Server, fetch: Callable[..., Path]) -> None:
    """pget retries a download that is always truncated without end; that is no progress."""
    server.answer = lambda request: Answer(cut=50_000)
    with pytest.raises(SourceError, match=r"pget wrote nothing for 0\.5 s"):
        fetch(RetryPolicy(stall_s=0.5))


def test_timeout_kills_pget_and_its_children(tmp_path: Path, pget: StandIn, fetch: Callable[..., Path]) -> None:
    pid = tmp_path / "child"
    pget.replace(f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait")
    with pytest.raises(SourceError, match=r"did not end within 2 s"):
        fetch(RetryPolicy(timeout_s=2))
    while pid.exists() and is_running(pid.read_text().strip()):  # on a busy machine it may not have started
        time.sleep(0.01)


def test_cancellation(tmp_path: Path, fetch: Callable[..., Path]) -> None:
    policy = RetryPolicy()
    policy.cancelled.set()
    with pytest.raises(CancelledError):
        fetch(policy)
    with pytest.raises(CancelledError):
        unpack(write(tmp_path / "tar", tar(FILES)), tmp_path / "tree", policy)


def test_error_message_contains_the_last_line_of_pget(tmp_path: Path, pget: StandIn) -> None:
    pget.replace('echo "ERR no route" >&2; exit 7')
    with pytest.raises(WeightsError, match=r"status 7 for http\S+: ERR no route"):
        ensure(tmp_path / "w", [bundle()], sources=Sources(names=("multitalk",), base_url="http://127.0.0.1:1"))
    assert os.listdir(tmp_path / "w") == [".download.lock"]


def test_server_without_ranges(server: Server, fetch: Callable[..., Path]) -> None:
    server.answer = lambda request: Answer(ranges=False)
    with pytest.raises(SourceError, match=r"status 1 .*panic"):
        fetch()


def test_empty_archive(server: Server, fetch: Callable[..., Path]) -> None:
    server.files["/tiny.tar"] = tar({})
    with pytest.raises(CorruptDownloadError, match="empty"):
        fetch()


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_tar_is_rejected_and_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    write(tmp_path / "x" / "outside", b"mine")
    with pytest.raises(CorruptDownloadError, match=r"rejected|not a valid tar"):
        unpack(write(tmp_path / "tar", MALICIOUS[name]), tmp_path / "x" / "tree", POLICY)
    assert set(os.listdir(tmp_path / "x")) <= {"outside", "tree"}
    assert sorted(os.listdir(tmp_path)) == ["tar", "x"]
    assert (tmp_path / "x" / "outside").stat().st_nlink == 1


@pytest.mark.parametrize("name", ["sibling with the folder's prefix", "absolute link", "hard link to the parent"])
def test_malicious_tar_that_pget_unpacks(
    server: Server, tmp_path: Path, pget: StandIn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path / "w" / "outside", b"mine")
    server.files["/tiny.tar"] = MALICIOUS[name]
    monkeypatch.setattr("src.weights.sources.BASE_URL", server.url)
    with pytest.raises(WeightsError):
        ensure(tmp_path / "w", [bundle()], sources=Sources(names=("multitalk",), base_url=server.url), policy=POLICY)
    assert list_dir(tmp_path / "w") == ["outside"]


def test_absolute_name_is_unpacked_below_the_folder(tmp_path: Path) -> None:
    unpack(write(tmp_path / "tar", members(("/evil-absolute", FILE, ""))), tmp_path / "tree", POLICY)
    assert (tmp_path / "tree" / "evil-absolute").is_file()
    assert not Path("/evil-absolute").exists()


@pytest.mark.parametrize("target", ["../outside", "/etc", "hard link", "pipe"])
def test_check_tree(tmp_path: Path, target: str) -> None:
    write(tmp_path / "outside", b"mine")
    root = write(tmp_path / "tree" / "deep" / "file", b"theirs").parents[1]
    os.link(root / "deep" / "file", root / "same")
    (root / "soft").symlink_to("deep")
    check_tree(root)
    if target == "hard link":
        os.link(tmp_path / "outside", root / "link")
    elif target == "pipe":
        os.mkfifo(root / "pipe")
    else:
        (root / "link").symlink_to(target)
    with pytest.raises(CorruptDownloadError, match="rejected"):
        check_tree(root)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3000))
def test_random_tars_write_nothing_outside(tmp_path: Path, seed: int) -> None:
    """Files and links of few names in random order, some with changed bytes."""
    rng = random.Random(seed)
    parts = ["a", "b", "c", ".", "..", "first", "outside"]

    def name() -> str:
        return "/".join(rng.choices(parts, weights=(9, 9, 9, 3, 2, 3, 2), k=rng.randint(1, 3)))

    kinds = [FILE, FILE, LINK, HARD, tarfile.DIRTYPE]
    data = bytearray(members(*((name(), rng.choice(kinds), name()) for _ in range(rng.randint(1, 8)))))
    for _ in range(rng.choice([0, 0, 0, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    write(tmp_path / "x" / "outside", b"mine")
    with suppress(CorruptDownloadError):
        unpack(write(tmp_path / "tar", bytes(data)), tmp_path / "x" / "tree", POLICY)
    assert set(os.listdir(tmp_path / "x")) <= {"outside", "tree"}
    assert (tmp_path / "x" / "outside").stat().st_nlink == 1
