"""Tars that a web server can offer, of weights that are on this machine."""

import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

from src.weights.errors import WeightsError
from src.weights.manifest import BUNDLES, CONVERTED
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, inspect_converted

logger = logging.getLogger(__name__)


def pack(source: Path, target: Path) -> list[Path]:
    """Write `target/NAME.tar` for every complete bundle in `source` that is published as a tar, or one of a converted
    folder. Each unpacks into a folder of its name. WeightsError where there is nothing to pack. Returns the tars."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, folder, findings in contents(source):
        tar, partial = target / f"{name}.tar", target / f".{name}.tar.partial"
        logger.info("writing %s", tar)
        with tarfile.open(partial, "w", dereference=True) as archive:
            for found in findings:
                archive.add(found.path, arcname=f"{name}/{relative(found, folder)}", filter=anonymous)
        partial.replace(tar)
        written.append(tar)
    if not written:
        raise WeightsError(f"{source} holds no complete bundle to pack, nor {CONVERTED}")
    return written


def contents(source: Path) -> Iterator[tuple[str, Path, list[FileStatus]]]:
    """Name, folder and files of everything that can be packed."""
    if (source / CONVERTED).is_file():
        findings = inspect_converted(source)
        if wrong := [found for found in findings if found.lacking]:
            raise WeightsError(f"{source} is not whole: {'; '.join(map(str, wrong))}")
        description = FileStatus(file=findings[0].file, path=source / CONVERTED, state="ok")
        yield source.resolve().name, source, [*findings, description]
        return
    for bundle in BUNDLES.values():
        findings = inspect_bundle(source, bundle)
        if bundle.tar and not any(found.lacking for found in findings):
            yield bundle.tar.removesuffix(".tar"), bundle_dir(source, bundle), [f for f in findings if f.state == "ok"]


def relative(found: FileStatus, folder: Path) -> str:
    """A file's name below its bundle's folder, also where it lies elsewhere."""
    if found.path.is_relative_to(folder):
        return found.path.relative_to(folder).as_posix()
    return next((path for path in found.file.paths if Path(path).name == found.path.name), found.file.path)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time, so that the same files make the same tar."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
