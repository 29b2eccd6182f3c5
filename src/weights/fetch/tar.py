"""Unpacking an archive that nobody vouches for, and resuming where it was left.

What is refused: absolute names, `..`, names that come twice, links that lead out, devices and pipes, sparse files.
Links are made last, when nothing can be written through them any more.
"""

import errno
import os
import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, cast

from src.weights.errors import CorruptError

BLOCK = 1 << 20
MOST_MEMBERS = 100_000
# What only an archive can be at fault for; a full disk and the like are passed on.
ODD_NAMES = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


class Archive(Protocol):
    """What is needed of a file to read a tar from it."""

    def read(self, count: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class Sparing:
    """An archive of which nobody reads much at once, or before its beginning, whatever a header says of lengths."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.tell = archive.tell

    def seek(self, offset: int, /) -> int:
        """Go to an offset from the beginning; CorruptError before it."""
        if offset < 0:
            raise CorruptError("is refused: a file of less than no bytes")
        return self._archive.seek(offset)

    def read(self, count: int = -1, /) -> bytes:
        """At most BLOCK bytes; CorruptError for more, which only a header can ask for that is none."""
        if not 0 <= count <= BLOCK:
            raise CorruptError(f"is refused: a header of {count:,} bytes")
        return self._archive.read(count)


def unpack(archive: Archive, tree: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack a plain tar below `tree`, from which files of an earlier attempt at the same archive are continued.

    `wanted` chooses files by their names. Raises CorruptError for what is no tar, ends early or is refused.
    """
    tree.mkdir(parents=True, exist_ok=True)
    links: list[tarfile.TarInfo] = []
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=cast(BinaryIO, Sparing(archive)), mode="r:") as tar:
            for number, member in enumerate(tar):
                if number >= MOST_MEMBERS:
                    raise CorruptError(f"is refused: it has more than {MOST_MEMBERS:,} entries")
                name = check_member(member, tree, seen)
                if member.issym() or member.islnk():
                    links.append(member)
                elif member.isfile() and wanted(name):
                    write(archive, member, tree / name)
        for link in links:
            make_link(link, tree)
    except (tarfile.TarError, ValueError, RecursionError) as error:  # the library lets the last two out as they are
        raise CorruptError(f"is no tar that can be unpacked: {error}") from error
    except OSError as error:
        if error.errno not in ODD_NAMES:
            raise
        raise CorruptError(f"is no tar that can be unpacked: {error.strerror}") from error
    check_tree(tree)


def check_member(member: tarfile.TarInfo, tree: Path, seen: set[str]) -> str:
    """The member's name, in order; CorruptError for one that is refused."""
    name = posixpath.normpath(member.name)
    if unsafe(member.name) or name in seen:
        raise CorruptError(f"is refused: {'a second' if name in seen else 'the name'} {member.name!r}")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()) or member.issparse():
        raise CorruptError(f"is refused: {member.name!r} is neither file nor folder")
    if member.issym() and leads_out(posixpath.join(posixpath.dirname(name), member.linkname)):
        raise CorruptError(f"is refused: {member.name!r} leads out, to {member.linkname!r}")
    if member.islnk() and unsafe(member.linkname):
        raise CorruptError(f"is refused: {member.name!r} leads out, to {member.linkname!r}")
    if not member.isdir():
        seen.add(name)
    tarfile.data_filter(member, str(tree))  # the library's own opinion, a TarError
    return name


def unsafe(name: str) -> bool:
    """Whether a name is absolute, climbs, or is none at all."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name or not name


def leads_out(target: str) -> bool:
    """Whether the target of a link, relative to the root, is absolute or climbs over it."""
    return target.startswith("/") or posixpath.normpath(target).split("/")[0] == ".."


def write(archive: Archive, member: tarfile.TarInfo, path: Path) -> None:
    """Write one file, from where an earlier attempt ended. CorruptError if the archive ends first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path.stat().st_size if path.exists() else 0
    done = done if done <= member.size else 0
    with path.open("r+b" if path.exists() else "xb") as file:
        file.truncate(done)
        file.seek(done)
        archive.seek(member.offset_data + done)
        while done < member.size:
            block = archive.read(min(BLOCK, member.size - done))
            if not block:
                raise CorruptError(f"ends inside {member.name!r}, {member.size - done:,} bytes early")
            file.write(block)
            done += len(block)


def make_link(member: tarfile.TarInfo, tree: Path) -> None:
    """Make a link within the tree, after links before it; a hard link to a file that was not wanted is left out."""
    path, target = tree / member.name, tree / member.linkname
    if not inside(tree, path.parent) or (member.islnk() and not inside(tree, target)):
        raise CorruptError(f"is refused: {member.name!r} leads out through another link")
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.unlink(missing_ok=True)
        path.symlink_to(member.linkname)
    elif target.is_file() and not target.is_symlink() and not path.exists():
        os.link(target, path)


def inside(tree: Path, path: Path) -> bool:
    """Whether a path, with all links followed, is `tree` or below it."""
    root = os.path.realpath(tree)
    return os.path.commonpath([root, os.path.realpath(path)]) == root


def check_tree(tree: Path) -> None:
    """CorruptError if anything below `tree` leads out of it or is neither file nor folder.

    Also for trees that somebody else unpacked: a hard link to a file outside shows in the count of its names.
    """
    names: dict[int, list[str]] = {}
    counts: dict[int, int] = {}
    for parent, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if os.path.islink(path):
                if not inside(tree, Path(path)):
                    raise CorruptError(f"is refused: {os.path.relpath(path, tree)!r} leads out")
            elif os.path.isfile(path):
                status = os.lstat(path)
                names.setdefault(status.st_ino, []).append(path)
                counts[status.st_ino] = status.st_nlink
            elif not os.path.isdir(path):
                raise CorruptError(f"is refused: {os.path.relpath(path, tree)!r} is neither file nor folder")
    for inode, paths in names.items():
        if counts[inode] != len(paths):
            raise CorruptError(f"is refused: {os.path.relpath(paths[0], tree)!r} is a hard link that leads out")
