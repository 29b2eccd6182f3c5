"""Move fetched files to their final location, link files of legacy layouts, and write the marker."""

import errno
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from src.weights.disk import flush, flush_tree
from src.weights.manifest import Bundle
from src.weights.verify import FileStatus, bundle_dir

# `rename` onto a folder that has files, or onto a link.
OCCUPIED_ERRNO = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}

logger = logging.getLogger(__name__)


def link_legacy_files(folder: Path, bundle: Bundle, statuses: Iterable[FileStatus]) -> None:
    """Link files at legacy paths into the bundle's folder, without copying.

    On a volume without links they stay where they are; readers know the legacy paths too.
    """
    root = bundle_dir(folder, bundle)
    for status in statuses:
        if status.state != "ok" or status.path.is_relative_to(root):
            continue
        names = (name for name in status.file.paths if Path(name).name == status.path.name)
        target = root / next(names, status.file.path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            quarantine(target)
            link(status.path, target)
        except OSError as error:
            logger.warning("%s was not linked into %s: %s", status.path, root, error.strerror)


def link(path: Path, target: Path) -> None:
    """Create a hard link, or a symbolic link where the volume has no hard links."""
    source = path.resolve()  # a relative symbolic link would be wrong in another folder
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(os.path.relpath(source, target.parent.resolve()))


def install(tree: Path, target_dir: Path, statuses: Iterable[FileStatus]) -> None:
    """Rename `tree` to `target_dir`; if that exists, move the fetched files into it one by one.

    Whether it exists is known only from the rename: bundles that share a folder are fetched at the same time.
    """
    flush_tree(tree)
    target_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        tree.rename(target_dir)
    except OSError as error:
        if error.errno not in OCCUPIED_ERRNO:
            raise
        merge(tree, target_dir, statuses)
    flush(target_dir.parent)


def merge(tree: Path, target_dir: Path, statuses: Iterable[FileStatus]) -> None:
    """Move single files, each in one rename; quarantine a file that another alternative replaces."""
    for status in statuses:
        if status.state != "ok":
            continue
        target = target_dir / status.path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in status.file.paths:
            if target_dir / path != target:
                quarantine(target_dir / path)
        status.path.replace(target)
        flush(target.parent)


def quarantine(path: Path) -> None:
    """Rename a broken file so that no reader uses it. It may be the user's own, so it is kept."""
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.broken"))


def write_marker(root: Path, bundle: Bundle, source: str, statuses: Iterable[FileStatus]) -> None:
    """Record in the bundle's folder what was fetched from where and what was checked. No code relies on this file."""
    lines = [f"{bundle.name} from {source}, complete {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"]
    for status in statuses:
        if status.state == "ok":
            name = os.path.relpath(status.path, root)
            lines.append(f"{name}\t{status.bytes} bytes\t{status.checked}")
    partial = root / f".{bundle.marker}.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flush(partial)
    partial.replace(root / bundle.marker)
