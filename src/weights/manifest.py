"""The published weights, read from `manifest.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "download_complete.txt"
CONVERTED = "converted.json"
"""The description in a folder that `convert` wrote: names, dtypes and hashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a bundle. All paths but `legacy_paths` are relative to the bundle's folder.

    `bytes` is the approximate size if known. Any of `alternatives` replaces the file. `legacy_paths` are locations
    used by older packages, relative to the folder of all weights. `revision` overrides the hub repository's.
    """

    path: str
    bytes: int | None = None
    sha256: str | None = None
    optional: bool = False
    alternatives: tuple[str, ...] = ()
    legacy_paths: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The file's possible paths, the preferred one first."""
        return (self.path, *self.alternatives)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A Hugging Face Hub repository at a branch, tag or commit."""

    repository: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Files that are fetched together into `folder`, which is relative to the folder of all weights.

    `identified_by` is the file that shows that a given folder is this bundle itself. `bytes` is the approximate total.
    """

    name: str
    folder: str
    description: str
    files: tuple[File, ...]
    bytes: int
    tar: str | None = None
    hub: HubRepo | None = None
    identified_by: str | None = None
    default: bool = False
    lora: bool = False

    @property
    def gigabytes(self) -> float:
        """The approximate size in 10^9 bytes, rounded."""
        return round(self.bytes / 1e9, 1)

    @property
    def required(self) -> tuple[File, ...]:
        """The files without which the bundle is incomplete."""
        return tuple(file for file in self.files if not file.optional)

    @property
    def marker(self) -> str:
        """The name of the marker file; it contains the bundle's name where bundles share a folder."""
        return MARKER if self.folder == self.name else f"download_complete.{self.name}.txt"

    def estimate_bytes(self, file: File) -> int:
        """The approximate size of one file: as stated, or an equal share of what the stated sizes leave."""
        if file.bytes is not None or file.optional:
            return file.bytes or 0
        num_unknown = sum(other.bytes is None for other in self.required)
        return max(0, self.bytes - sum(other.bytes or 0 for other in self.required)) // num_unknown


def read_manifest(text: str) -> dict[str, Bundle]:
    """Parse a manifest into bundles by name. Raises TypeError for an unknown key."""
    return {name: read_bundle(name, entry) for name, entry in json.loads(text)["bundles"].items()}


def read_bundle(name: str, entry: Mapping[str, Any]) -> Bundle:
    """Parse one bundle of the manifest."""
    other = {key: value for key, value in entry.items() if key not in {"files", "hub", "folder"}}
    return Bundle(
        name=name,
        folder=entry.get("folder", name),
        files=tuple(read_file(file) for file in entry["files"]),
        hub=HubRepo(**entry["hub"]) if "hub" in entry else None,
        **other,
    )


def read_file(entry: Mapping[str, Any]) -> File:
    """Parse one file of the manifest."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return File(**values)


BUNDLES: Mapping[str, Bundle] = read_manifest((Path(__file__).parent / "manifest.json").read_text(encoding="utf-8"))
