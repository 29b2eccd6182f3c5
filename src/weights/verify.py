"""Check each file of a bundle on disk: present, complete, of the expected hash."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.weights.integrity import CorruptFileError, check_format, sha256
from src.weights.manifest import BUNDLES, CONVERTED, Bundle, File

State = Literal["ok", "missing", "broken"]
# What is read: only what the format's own length check needs; also the hash, if the manifest has one; every byte.
Depth = Literal["format", "hash", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """The result of checking one file. `checked` says what was compared, `note` what was not or is unusual."""

    file: File
    path: Path
    state: State
    bytes: int = 0
    checked: str = ""
    note: str = ""

    def __str__(self) -> str:
        """For example `config.json: ok, 250 bytes, JSON`."""
        size = f"{self.bytes:,} bytes" if self.bytes else ""
        return f"{self.path}: {', '.join(part for part in (self.state, size, self.checked, self.note) if part)}"

    @property
    def is_incomplete(self) -> bool:
        """Whether this file makes its bundle incomplete."""
        return self.state == "broken" or (self.state == "missing" and not self.file.optional)


def bundle_dir(folder: Path, bundle: Bundle) -> Path:
    """The folder of a bundle: below `folder`, or `folder` itself if that is the bundle, or beside it if complete."""
    own, sibling = folder / bundle.folder, folder.absolute().parent / bundle.folder
    if own.is_dir():
        return own
    if is_dir_of(folder, bundle):
        return folder
    if is_bundle_dir(folder) and not any(inspect_file(sibling, file).is_incomplete for file in bundle.files):
        return sibling
    return own


def is_dir_of(folder: Path, bundle: Bundle) -> bool:
    """Whether `folder` holds this bundle directly instead of one folder for each bundle."""
    identified = bundle.identified_by is not None and (folder / bundle.identified_by).is_file()
    return identified and not (folder / bundle.folder).is_dir()


def is_bundle_dir(folder: Path) -> bool:
    """Whether `folder` holds any one bundle directly."""
    return any(is_dir_of(folder, bundle) for bundle in BUNDLES.values())


def inspect_bundle(folder: Path, bundle: Bundle, depth: Depth = "format") -> list[FileStatus]:
    """Check every file of a bundle below the folder of all weights, including its legacy locations."""
    root = bundle_dir(folder, bundle)
    legacy_roots = (folder, folder.absolute().parent) if is_bundle_dir(folder) else (folder,)

    def legacy_paths(file: File) -> list[Path]:
        return [legacy_root / path for legacy_root in legacy_roots for path in file.legacy_paths]

    return [inspect_file(root, file, legacy_paths(file), depth) for file in bundle.files]


def inspect_converted(folder: Path, depth: Depth = "format") -> list[FileStatus]:
    """Check every file that the description in a converted folder lists with its hash."""
    try:
        hashes = json.loads((folder / CONVERTED).read_text(encoding="utf-8"))["sha256"]
        files = [File(path=path, sha256=str(digest)) for path, digest in hashes.items()]
        if outside := [path for path in hashes if Path(path).is_absolute() or ".." in Path(path).parts]:
            raise ValueError(f"paths outside the folder: {', '.join(outside)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [FileStatus(file=File(path=CONVERTED), path=folder / CONVERTED, state="broken", note=f"({error})")]
    return [inspect_file(folder, file, depth=depth) for file in files]


def inspect_file(root: Path, file: File, legacy_paths: Iterable[Path] = (), depth: Depth = "format") -> FileStatus:
    """Check one file of a bundle in the folder `root`.

    A broken file counts even beside a valid alternative, because a reader may prefer it; a valid file at one of the
    legacy paths replaces it.
    """
    own = next((root / path for path in file.paths if (root / path).is_file()), root / file.path)
    status = inspect_path(own, file, depth)
    if status.state == "ok":
        return status
    others = (inspect_path(path, file, depth) for path in legacy_paths)
    return next((other for other in others if other.state == "ok"), status)


def is_complete(folder: Path, bundle: Bundle) -> bool:
    """Whether all required files of a bundle exist, in any of their locations, and none is broken."""
    return not any(status.is_incomplete for status in inspect_bundle(folder, bundle))


def inspect_path(path: Path, file: File, depth: Depth) -> FileStatus:
    """Check the file at one path."""
    if not path.is_file():
        return FileStatus(file=file, path=path, state="missing", note="optional" if file.optional else "")
    size = path.stat().st_size
    try:
        checks = [check_format(path, deep=depth == "all"), check_hash(path, file) if depth != "format" else ""]
    except CorruptFileError as error:
        return FileStatus(file=file, path=path, state="broken", bytes=size, note=str(error))
    checked = ", ".join(check for check in checks if check)
    return FileStatus(file=file, path=path, state="ok", bytes=size, checked=checked, note=warnings(path, file, depth))


def check_hash(path: Path, file: File) -> str:
    """Compare with the manifest's hash, if it has one; return what was compared. Raises CorruptFileError."""
    if file.sha256 is None or path.name != Path(file.path).name:
        return ""
    if (digest := sha256(path)) != file.sha256:
        raise CorruptFileError(f"has SHA-256 {digest}, not {file.sha256}")
    return "SHA-256"


def warnings(path: Path, file: File, depth: Depth) -> str:
    """What could not be checked, or is unusual without being an error."""
    is_smaller = file.bytes is not None and path.stat().st_size < file.bytes
    size = f"smaller than the published {file.bytes:,} bytes: another dtype?" if is_smaller else ""
    content = "content not checked: no hash is known" if depth == "all" and file.sha256 is None else ""
    return "; ".join(part for part in (size, content) if part)
