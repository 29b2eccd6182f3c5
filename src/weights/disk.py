"""Room on the volume, the size of what is there, and making sure that it stays."""

import os
import shutil
from pathlib import Path

from src.weights.errors import SpaceError

SPARE = 1 << 28  # bytes that must stay free for the lock, markers and everybody else


def tree_bytes(folder: Path) -> int:
    """The sum of the sizes of all files below a folder that may be changing, in bytes."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # renamed or removed since it was listed
                continue
    return total


def require_space(folder: Path, needed: int, what: str) -> None:
    """SpaceError, with both numbers, unless `needed` bytes and a little more are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + SPARE > free:
        raise SpaceError(
            f"{what} needs {(needed + SPARE) / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free: "
            "make room, or set MODEL_PATH to a larger volume"
        )


def flush_tree(tree: Path) -> None:
    """Wait until every file below `tree` is on the disk, so that no crash can leave a complete name on half a file."""
    for parent, _, names in os.walk(tree):
        for name in names:
            flush(Path(parent, name))
        flush(Path(parent))


def flush(path: Path) -> None:
    """Wait until one file, or the list of names in a folder, is on the disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder or a file, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
