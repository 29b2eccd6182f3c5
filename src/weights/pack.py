"""Pack weights on disk into tars for a web server."""

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

from src.weights.converted import TAR_INDEX
from src.weights.errors import WeightsError
from src.weights.manifest import BUNDLES, CONVERTED
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, inspect_converted

logger = logging.getLogger(__name__)


def pack(source: Path, target: Path, *, overwrite: bool = False) -> list[Path]:
    """Write `target/NAME.tar` for every complete bundle in `source` that is published as a tar, or for a converted
    folder. Each tar contains one folder of its name; that of a converted folder is listed in `target/tars.json`.
    Returns the tars; raises WeightsError if there is none, and unless `overwrite` if one exists already."""
    target.mkdir(parents=True, exist_ok=True)
    tars: list[Path] = []
    found = list(packable(source))
    existing = [str(target / f"{name}.tar") for name, *_ in found if (target / f"{name}.tar").exists()]
    if existing and not overwrite:
        raise WeightsError(f"{', '.join(existing)} exists; choose another folder or use --overwrite")
    for name, folder, statuses in found:
        tar, partial = target / f"{name}.tar", target / f".{name}.tar.partial"
        logger.info("writing %s", tar)
        with tarfile.open(partial, "w", dereference=True) as archive:
            for status in statuses:
                archive.add(status.path, arcname=f"{name}/{relative_path(status, folder)}", filter=strip_metadata)
        partial.replace(tar)
        tars.append(tar)
    if tars and (source / CONVERTED).is_file():
        write_index(source, tars[0])
    if not tars:
        raise WeightsError(f"{source} contains no complete bundle to pack, and no {CONVERTED}")
    return tars


def write_index(source: Path, tar: Path) -> None:
    """Add the tar of a converted folder to the index in its folder, where servers look for the tar of their model."""
    path = tar.with_name(TAR_INDEX)
    index = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    description = json.loads((source / CONVERTED).read_text(encoding="utf-8"))
    entry = {"model": description.get("model"), "dtype": description.get("dtype"), "bytes": tar.stat().st_size}
    partial = tar.with_name(f".{TAR_INDEX}.partial")
    partial.write_text(json.dumps({**index, tar.name: entry}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def packable(source: Path) -> Iterator[tuple[str, Path, list[FileStatus]]]:
    """Name, folder and files of everything in `source` that can be packed."""
    if (source / CONVERTED).is_file():
        statuses = inspect_converted(source)
        if incomplete := [status for status in statuses if status.is_incomplete]:
            raise WeightsError(f"{source} is incomplete: {'; '.join(map(str, incomplete))}")
        description = FileStatus(file=statuses[0].file, path=source / CONVERTED, state="ok")
        yield source.resolve().name, source, [*statuses, description]
        return
    for bundle in BUNDLES.values():
        statuses = inspect_bundle(source, bundle)
        if bundle.tar and not any(status.is_incomplete for status in statuses):
            present = [status for status in statuses if status.state == "ok"]
            yield bundle.tar.removesuffix(".tar"), bundle_dir(source, bundle), present


def relative_path(status: FileStatus, folder: Path) -> str:
    """A file's path relative to its bundle's folder, also if it lies at a legacy path."""
    if status.path.is_relative_to(folder):
        return status.path.relative_to(folder).as_posix()
    return next((path for path in status.file.paths if Path(path).name == status.path.name), status.file.path)


def strip_metadata(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove owner and time, so that packing the same files gives the same tar."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
