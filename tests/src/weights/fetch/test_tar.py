"""Archives from strangers."""

import io
import os
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from src.weights.errors import CorruptError
from src.weights.fetch.tar import check_tree, unpack
from tests.src.weights.samples import tar, tiny_files, tree, write


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"evil") -> bytes:
    """A tar of one member, after a harmless file."""
    return members((name, kind, target, data))


def members(*entries: tuple[str, bytes, str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target, data in (("first", tarfile.REGTYPE, "", b"harmless"), *entries):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
    return file.getvalue()


def headers(*entries: tuple[bytes, int]) -> bytes:
    """Headers of these kinds that claim these sizes, without what should follow."""
    blocks = []
    for kind, size in entries:
        info = tarfile.TarInfo("name")
        info.type = kind
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        block[124:136] = b"\xff" + (256**11 + size).to_bytes(12, "big")[-11:] if size < 0 else b"%011o\0" % size
        block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
        blocks.append(bytes(block))
    return b"".join(blocks) + bytes(1024)


LINK, HARD, FILE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE
HOSTILE = {
    "absolute name": member("/tmp/evil-absolute"),
    "climbing name": member("../evil"),
    "climbing in the middle": member("a/../../evil"),
    "sibling with our prefix": member("../tree-evil"),
    "absolute link": member("link", LINK, "/etc/passwd"),
    "climbing link": member("a/link", LINK, "../../evil"),
    "link to the parent": member("link", LINK, ".."),
    "hard link to an absolute name": member("link", HARD, "/etc/passwd"),
    "hard link that climbs": member("link", HARD, "../outside"),
    "device": member("null", tarfile.CHRTYPE),
    "block device": member("disk", tarfile.BLKTYPE),
    "pipe": member("pipe", tarfile.FIFOTYPE),
    "a file through a link": members(("d", LINK, "..", b""), ("d/evil", FILE, "", b"evil")),
    "a file over a link": members(("d", LINK, "first", b""), ("d", FILE, "", b"evil")),
    "a link over a file": members(("first", LINK, "../outside", b"")),
    "the same name twice": member("./first"),
    "links that climb together": members(
        ("b", LINK, ".", b""), ("a", LINK, "b/..", b""), ("a/evil", LINK, "first", b"")
    ),
    "a hard link through links": members(
        ("b", LINK, ".", b""), ("a", LINK, "b/..", b""), ("stolen", HARD, "a/outside", b"")
    ),
    "a folder that is a file": member("first/evil"),
    "a sparse file": member("holes", tarfile.GNUTYPE_SPARSE),
    "a name of a gigabyte": headers((tarfile.GNUTYPE_LONGNAME, 10**9)),
    "a name of less than nothing": headers((tarfile.GNUTYPE_LONGNAME, -512)),
    "attributes of a gigabyte": headers((tarfile.XHDTYPE, 10**9)),
    "a file of less than nothing": headers((FILE, -1024)),
    "headers without end": headers(*[(tarfile.GNUTYPE_LONGNAME, 512)] * 5000),
    "sparse without numbers": headers((tarfile.GNUTYPE_SPARSE, 512)).replace(b"\0" * 12, b"x" * 12, 1),
    "empty": b"",
    "no tar": b"<html>not found</html>" * 100,
    "compressed": b"\x1f\x8b\x08\x00" + bytes(600),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused_and_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("mine")
    with pytest.raises(CorruptError, match=r"refused|no tar"):
        unpack(io.BytesIO(HOSTILE[name]), tmp_path / "tree")
    assert sorted(os.listdir(tmp_path)) in (["outside", "tree"], ["outside"])
    assert (tmp_path / "outside").read_text() == "mine"
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert not Path("/tmp/evil-absolute").exists()


def test_more_members_than_any_bundle_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.weights.fetch.tar.MOST_MEMBERS", 2)
    with pytest.raises(CorruptError, match="more than 2 entries"):
        unpack(io.BytesIO(tar(tiny_files())), tmp_path / "tree")


def test_links_within_are_made(tmp_path: Path) -> None:
    data = members(("a/soft", LINK, "../first", b""), ("hard", HARD, "first", b""), ("gone", HARD, "skipped", b""))
    unpack(io.BytesIO(data), tmp_path / "tree")
    assert (tmp_path / "tree" / "a" / "soft").read_text() == "harmless"
    assert (tmp_path / "tree" / "hard").read_text() == "harmless"
    assert not (tmp_path / "tree" / "gone").exists()


@pytest.mark.parametrize("folder", ["", "tiny", "./tiny"])
def test_a_plain_tar(tmp_path: Path, folder: str) -> None:
    unpack(io.BytesIO(tar(tiny_files(), folder)), tmp_path / "tree")
    assert tree(tmp_path / "tree" / folder) == tiny_files()


def test_only_what_is_wanted(tmp_path: Path) -> None:
    unpack(io.BytesIO(tar(tiny_files())), tmp_path / "tree", lambda name: name == "deep/b.safetensors")
    assert list(tree(tmp_path / "tree")) == ["deep/b.safetensors"]


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_tar_that_ends_early_is_continued(tmp_path: Path, part: float) -> None:
    whole = tar(tiny_files(200_000))
    with pytest.raises(CorruptError):
        unpack(io.BytesIO(whole[: int(len(whole) * part)]), tmp_path / "tree")
    archive = Counting(whole)
    unpack(archive, tmp_path / "tree")
    assert tree(tmp_path / "tree") == tiny_files(200_000)
    assert archive.count < len(whole) * (1 - part) + 20_000


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def link_out(root: Path) -> None:
    (root / "link").symlink_to("../outside")


def link_far(root: Path) -> None:
    (root / "link").symlink_to("/etc")


def hard_link_out(root: Path) -> None:
    os.link(root.parent / "outside", root / "link")


def pipe(root: Path) -> None:
    os.mkfifo(root / "pipe")


@pytest.mark.parametrize("spoil", [link_out, link_far, hard_link_out, pipe])
def test_a_tree_that_somebody_else_unpacked_is_checked(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    write(tmp_path / "outside", b"mine")
    write(tmp_path / "tree" / "deep" / "file", b"theirs")
    os.link(tmp_path / "tree" / "deep" / "file", tmp_path / "tree" / "same")
    (tmp_path / "tree" / "soft").symlink_to("deep")
    check_tree(tmp_path / "tree")
    spoil(tmp_path / "tree")
    with pytest.raises(CorruptError, match="refused"):
        check_tree(tmp_path / "tree")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3000))
def test_random_tars_write_nothing_outside(tmp_path: Path, seed: int) -> None:
    """Files and links of few names in any order, some of the bytes changed: refused or unpacked, never outside."""
    dice = random.Random(seed)
    parts = ["a", "b", "c", ".", "..", "first", "outside"]
    kinds = [FILE, LINK, HARD, tarfile.DIRTYPE]

    def name() -> str:
        return "/".join(dice.choices(parts, weights=(9, 9, 9, 3, 2, 3, 2), k=dice.randint(1, 3)))

    entries = [(name(), dice.choice(kinds), name(), b"evil") for _ in range(dice.randint(1, 8))]
    data = bytearray(members(*entries))
    for _ in range(dice.choice([0, 0, 0, 3])):
        data[dice.randrange(len(data))] = dice.randrange(256)
    root = tmp_path / "x" / "y"
    write(root / "outside", b"mine")
    for _ in range(2):  # and once more over what the first attempt left
        with suppress(CorruptError):
            unpack(io.BytesIO(bytes(data)), root / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["y"]
    assert {path.name for path in root.iterdir()} <= {"outside", "tree"}
    assert (root / "outside").read_bytes() == b"mine"
    assert (root / "outside").stat().st_nlink == 1
