"""Moving what was fetched to where it belongs, and saying so."""

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

# What the system says of a rename onto something that is there: a folder with files, a link.
OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}

logger = logging.getLogger(__name__)


def link_legacy_files(folder: Path, bundle: Bundle, findings: Iterable[FileStatus]) -> None:
    """Give files that older packages kept elsewhere a name in the bundle's folder as well, without copying.

    Where the volume allows no links they stay where they are.
    """
    place = bundle_dir(folder, bundle)
    for found in findings:
        names = (name for name in found.file.paths if Path(name).name == found.path.name)
        target = place / next(names, found.file.path)
        if found.state != "ok" or found.path.is_relative_to(place):
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            quarantine(target)
            link(found.path, target)
        except OSError as error:
            logger.warning("%s stays where it is: %s", found.path, error.strerror)


def link(path: Path, target: Path) -> None:
    """A second name for a file: a hard link, or a symbolic one where those do not exist."""
    source = path.resolve()  # a second name of a relative link would lead elsewhere
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(os.path.relpath(source, target.parent.resolve()))


def install(tree: Path, place: Path, fetched: Iterable[FileStatus]) -> None:
    """Put a whole new bundle in place in one rename; complete one that is there in part file by file.

    It is the rename that finds out, for bundles that share a folder may come at the same time.
    """
    flush_tree(tree)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        tree.rename(place)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise
        merge(tree, place, fetched)
    flush(place.parent)


def is_empty(place: Path) -> bool:
    """Whether nothing is there that one rename could not replace."""
    return not place.is_symlink() and not (place.is_dir() and any(place.iterdir()))


def merge(tree: Path, place: Path, fetched: Iterable[FileStatus]) -> None:
    """Move single files, each in one rename; a broken file of another name than the new one is set aside."""
    for found in fetched:
        if found.state != "ok":
            continue
        target = place / found.path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in found.file.paths:
            if place / path != target:
                quarantine(place / path)
        found.path.replace(target)
        flush(target.parent)


def quarantine(path: Path) -> None:
    """Rename a file that must not be read any more; it is somebody else's, so it is kept."""
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.broken"))


def write_marker(place: Path, bundle: Bundle, source: str, findings: Iterable[FileStatus]) -> None:
    """Say in the bundle's folder what was fetched from where, and what was checked. It is a record, not a proof."""
    lines = [f"{bundle.name} from {source}, complete {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"]
    for found in findings:
        if found.state == "ok":
            name = os.path.relpath(found.path, place)
            lines.append(f"{name}\t{found.bytes} bytes\t{found.checked}")
    partial = place / f".{bundle.marker}.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flush(partial)
    partial.replace(place / bundle.marker)
