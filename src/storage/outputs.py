"""A finished video, brought where it is wanted: into a file, into the answer, or into the bucket."""

import base64
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from src.media.errors import InputError, quoted
from src.storage.s3 import Bucket
from src.storage.fetcher import is_key

SUFFIX = ".mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A key of the configured bucket, checked before any work."""

    bucket: Bucket
    key: str

    @property
    def address(self) -> str:
        """As `s3://bucket/key`."""
        return f"s3://{self.bucket.store.bucket}/{self.key}"

    def deliver(self, path: Path) -> str:
        """Store the video, and give a URL for it that works for a while."""
        self.bucket.put(path, self.key)
        return self.bucket.link(self.key)


def choose_place(bucket: Bucket | None, wanted: str | None, *, folder: str, name: str) -> Place:
    """Where a video goes: `wanted` is a key ending in .mp4, a prefix ending in a slash, either with `s3://bucket/`
    before it, or None for a new key in `folder`, below the operator's prefix. InputError for any other, and without
    a bucket.
    """
    if bucket is None:
        raise InputError(f"{name}: this server has no bucket (the operator sets S3_BUCKET); base64 is allowed")
    prefix = bucket.store.output_prefix
    key = below(prefix, f"{folder}/") if wanted is None else wanted
    own = f"s3://{bucket.store.bucket}/"
    if key.startswith("s3://"):
        if not key.startswith(own):
            raise InputError(f"{name} is {quoted(key)}; results go to {own}")
        key = key.removeprefix(own)
    key = f"{key}{uuid4().hex}{SUFFIX}" if key.endswith("/") or not key else key
    if not is_key(key) or not key.endswith(SUFFIX) or not key.startswith(prefix):
        begins = f" that begins with {prefix!r}" if prefix else ""
        raise InputError(f"{name} is {quoted(wanted or key)}; a key{begins} and ends in {SUFFIX} is needed")
    return Place(bucket=bucket, key=key)


def below(prefix: str, folder: str) -> str:
    """A folder of ours below the operator's prefix, unless it is there already."""
    return folder if folder.startswith(prefix) else f"{prefix.removesuffix('/')}/{folder}"


def in_base64(path: Path) -> str:
    """The video as text."""
    return base64.b64encode(path.read_bytes()).decode("ascii")


def to_file(path: Path, target: Path) -> None:
    """Copy the video to `target`, which is either whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        shutil.copyfile(path, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
