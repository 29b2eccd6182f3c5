"""What a folder holds of a bundle: every file looked at, none believed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.weights.integrity import CorruptFileError, check_format, sha256
from src.weights.manifest import BUNDLES, CONVERTED, Bundle, File

State = Literal["ok", "missing", "broken"]
# How closely to look: at the ends of the file; also at its hash where the manifest has one; at every byte.
Depth = Literal["format", "hash", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """A file of a bundle: where it is, what was checked, and what could not be or is odd (`remark`)."""

    file: File
    path: Path
    state: State
    bytes: int = 0
    checked: str = ""
    remark: str = ""

    def __str__(self) -> str:
        """`config.json: ok, 250 bytes, JSON`."""
        size = f"{self.bytes:,} bytes" if self.bytes else ""
        return f"{self.path}: {', '.join(part for part in (self.state, size, self.checked, self.remark) if part)}"

    @property
    def lacking(self) -> bool:
        """Whether this keeps its bundle from being complete."""
        return self.state == "broken" or (self.state == "missing" and not self.file.optional)


def bundle_dir(folder: Path, bundle: Bundle) -> Path:
    """Where a bundle lies: its own folder, or `folder` itself when that is the bundle, or a neighbour of that."""
    own, beside = folder / bundle.folder, folder.absolute().parent / bundle.folder
    if own.is_dir():
        return own
    if is_itself(folder, bundle):
        return folder
    if is_one_bundle(folder) and not any(inspect_file(beside, file).lacking for file in bundle.files):
        return beside
    return own


def is_itself(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder is not that of all weights, but this very bundle."""
    return bool(bundle.itself) and not (folder / bundle.folder).is_dir() and (folder / str(bundle.itself)).is_file()


def is_one_bundle(folder: Path) -> bool:
    """Whether a folder is one of the bundles."""
    return any(is_itself(folder, bundle) for bundle in BUNDLES.values())


def inspect_bundle(folder: Path, bundle: Bundle, depth: Depth = "format") -> list[FileStatus]:
    """Look at every file of the bundle in the folder of all weights, also where older packages kept it."""
    place = bundle_dir(folder, bundle)
    roots = (folder, folder.absolute().parent) if is_one_bundle(folder) else (folder,)

    def elsewhere(file: File) -> list[Path]:
        return [root / path for root in roots for path in file.elsewhere]

    return [inspect_file(place, file, elsewhere(file), depth) for file in bundle.files]


def inspect_converted(folder: Path, depth: Depth = "format") -> list[FileStatus]:
    """Look at every file that the description in a converted folder names; it has the hashes of all of them."""
    try:
        hashes = json.loads((folder / CONVERTED).read_text(encoding="utf-8"))["sha256"]
        files = [File(path=path, sha256=str(digest)) for path, digest in hashes.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        broken = FileStatus(file=File(path=CONVERTED), path=folder / CONVERTED, state="broken", remark=f"({error})")
        return [broken]
    return [inspect_file(folder, file, depth=depth) for file in files]


def inspect_file(place: Path, file: File, elsewhere: Iterable[Path] = (), depth: Depth = "format") -> FileStatus:
    """Look at one file of a bundle below `place`.

    A broken file counts even where an alternative is sound, for a reader may prefer it; a sound one elsewhere
    makes up for it.
    """
    own = next((place / path for path in file.paths if (place / path).is_file()), place / file.path)
    found = inspect_path(own, file, depth)
    if found.state == "ok":
        return found
    others = (inspect_path(path, file, depth) for path in elsewhere)
    return next((other for other in others if other.state == "ok"), found)


def is_complete(folder: Path, bundle: Bundle) -> bool:
    """Whether all the needed files are there, here or where older packages kept them, and none is broken."""
    return not any(found.lacking for found in inspect_bundle(folder, bundle))


def inspect_path(path: Path, file: File, depth: Depth) -> FileStatus:
    """Look at one path."""
    if not path.is_file():
        return FileStatus(file=file, path=path, state="missing", remark="optional" if file.optional else "")
    size = path.stat().st_size
    try:
        checks = [check_format(path, deep=depth == "all"), check_hash(path, file) if depth != "format" else ""]
    except CorruptFileError as error:
        return FileStatus(file=file, path=path, state="broken", bytes=size, remark=str(error))
    checked = ", ".join(check for check in checks if check)
    return FileStatus(file=file, path=path, state="ok", bytes=size, checked=checked, remark=warnings(path, file, depth))


def check_hash(path: Path, file: File) -> str:
    """Compare the file's hash with the manifest's, if that has one; CorruptFileError if they differ."""
    if file.sha256 is None or path.name != Path(file.path).name:
        return ""
    if (found := sha256(path)) != file.sha256:
        raise CorruptFileError(f"has SHA-256 {found}, not {file.sha256}")
    return "SHA-256"


def warnings(path: Path, file: File, depth: Depth) -> str:
    """What could not be checked, or is odd without being wrong."""
    small = file.bytes is not None and path.stat().st_size < file.bytes
    odd = f"smaller than the published {file.bytes:,} bytes: another dtype?" if small else ""
    unknown = "no hash known to check the content" if depth == "all" and file.sha256 is None else ""
    return "; ".join(part for part in (odd, unknown) if part)
