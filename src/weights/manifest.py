"""What the published weights consist of, read once from `manifest.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "download_complete.txt"
CONVERTED = "converted.json"
"""What `convert` leaves in the folder that it writes: names, dtypes and hashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a bundle.

    `bytes` is about its size, where known; `alternatives` serve as well (all paths are relative to the bundle);
    `elsewhere` are places of older packages, relative to the folder of all weights.
    """

    path: str
    bytes: int | None = None
    sha256: str | None = None
    optional: bool = False
    alternatives: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The file's names, the preferred one first."""
        return (self.path, *self.alternatives)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A repository on the model hub, at a branch, tag or commit."""

    repository: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Files that are fetched together, into `folder` below the folder of all weights.

    `itself` is the file by which a folder is recognised as this very bundle; `bytes` is about the sum of sizes.
    """

    name: str
    folder: str
    holds: str
    files: tuple[File, ...]
    bytes: int
    tar: str | None = None
    hub: Hub | None = None
    itself: str | None = None
    default: bool = False
    lora: bool = False

    @property
    def gigabytes(self) -> float:
        """The size for people, in 10^9 bytes."""
        return round(self.bytes / 1e9, 1)

    @property
    def needed(self) -> tuple[File, ...]:
        """The files that the bundle is not complete without."""
        return tuple(file for file in self.files if not file.optional)

    @property
    def marker(self) -> str:
        """The marker's file name, of its own where bundles share a folder."""
        return MARKER if self.folder == self.name else f"download_complete.{self.name}.txt"

    def about(self, file: File) -> int:
        """About the size of one of the files in bytes: what is said of it, or its share of what is not."""
        if file.bytes is not None or file.optional:
            return file.bytes or 0
        unsaid = [other for other in self.needed if other.bytes is None]
        return max(0, self.bytes - sum(other.bytes or 0 for other in self.needed)) // len(unsaid)


def read_manifest(text: str) -> dict[str, Bundle]:
    """The bundles of a manifest by name; TypeError for a key that does not belong there."""
    return {name: read_bundle(name, entry) for name, entry in json.loads(text)["bundles"].items()}


def read_bundle(name: str, entry: Mapping[str, Any]) -> Bundle:
    """One bundle of the manifest."""
    rest = {key: value for key, value in entry.items() if key not in {"files", "hub", "folder"}}
    return Bundle(
        name=name,
        folder=entry.get("folder", name),
        files=tuple(read_file(file) for file in entry["files"]),
        hub=Hub(**entry["hub"]) if "hub" in entry else None,
        **rest,
    )


def read_file(entry: Mapping[str, Any]) -> File:
    """One file of the manifest."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return File(**values)


BUNDLES: Mapping[str, Bundle] = read_manifest((Path(__file__).parent / "manifest.json").read_text(encoding="utf-8"))
