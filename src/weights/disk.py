"""Free space, folder sizes, and flushing to disk."""

import os
import shutil
from pathlib import Path

from src.weights.errors import SpaceError

RESERVED_BYTES = 1 << 28
"""Bytes that stay free for the lock file, markers and other programs."""


def tree_bytes(folder: Path) -> int:
    """The total size in bytes of all files below a folder; files may be renamed or removed meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # renamed or removed since it was listed
                continue
    return total


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise SpaceError unless `num_bytes` and RESERVED_BYTES are free on the volume of `folder`."""
    free = shutil.disk_usage(folder).free
    if num_bytes > 0 and num_bytes + RESERVED_BYTES > free:
        raise SpaceError(
            f"{what} needs {(num_bytes + RESERVED_BYTES) / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free: "
            "free some space, or set MODEL_PATH to a larger volume"
        )


def flush_tree(tree: Path) -> None:
    """Flush every file and folder below `tree`, so that after a crash no renamed file is incomplete."""
    for parent, _, names in os.walk(tree):
        for name in names:
            flush(Path(parent, name))
        flush(Path(parent))


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk (fsync)."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder or a file if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
