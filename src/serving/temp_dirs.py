"""Temporary folders with an owner: a process holds a lock on its folder for as long as it lives.

A process that was killed leaves its folder behind without the lock, so that the next start recognizes and deletes it.
"""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "multitalk-"
DISK_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class DiskError(RuntimeError):
    """The operator's disk is full or read-only; the caller is not at fault, and may try again later."""


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise DiskError in place of an OSError of a full or read-only disk; its path stays in the log."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNO:
            raise
        logger.error("temporary files cannot be written: %s", error)
        raise DiskError(
            f"the server cannot write temporary files ({os.strerror(error.errno)}); try again later or ask its operator"
        ) from error


class OwnedDir:
    """A new folder `PREFIX...` in the temporary folder, locked until `remove` or the end of this process.

    Child processes that inherit `fd` hold the lock as well.
    """

    def __init__(self, kind: str = "", parent: Path | None = None) -> None:
        self.fd = -1
        while self.fd < 0:
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}", dir=parent))
            self.lock()

    def lock(self) -> None:
        """Lock the folder; `fd` is -1 if `remove_orphans` of another process was faster."""
        self.fd = os.open(self.path, os.O_RDONLY)
        if not try_lock(self.fd) or not self.path.exists():
            os.close(self.fd)
            self.fd = -1

    def restore(self) -> None:
        """Make the folder again if something else has deleted it, such as a cleaner of old temporary files."""
        if self.fd >= 0 and not self.path.exists():
            logger.warning("%s was deleted by another program; made again", self.path)
            self.path.mkdir(mode=0o700, parents=True)
            os.close(self.fd)
            self.lock()

    def clear(self, keep: frozenset[Path] = frozenset()) -> None:
        """Delete the content, except the entries in `keep`."""
        with suppress(OSError):
            for path in self.path.iterdir():
                if path not in keep:
                    remove(path)

    def remove(self) -> None:
        """Delete the folder and unlock it. Harmless when repeated."""
        if self.fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.fd)
            self.fd = -1


@contextmanager
def owned_dir(kind: str = "", parent: Path | None = None) -> Iterator[Path]:
    """An OwnedDir that is removed afterwards."""
    folder = OwnedDir(kind, parent)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_orphans(parent: Path | None = None) -> list[Path]:
    """Delete the folders `PREFIX...` in the temporary folder that no live process has locked; returns them."""
    orphans = []
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.getuid() and try_lock(fd, or_unsupported=False):
                    shutil.rmtree(path, ignore_errors=True)
                    orphans.append(path)
            finally:
                os.close(fd)
    if orphans:
        logger.info("deleted %d temporary folders of processes that have ended", len(orphans))
    return orphans


def compiler_cache() -> dict[str, str]:
    """The variable of the compiler's cache in the shared temporary folder, its default place: it outlives a process,
    and must not move into a folder that is deleted with it."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    return {name: os.environ.get(name) or str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}")}


def try_lock(fd: int, *, or_unsupported: bool = True) -> bool:
    """Lock a folder without waiting; `or_unsupported` where the file system knows no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return or_unsupported
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
