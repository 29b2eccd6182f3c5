"""A finished video, brought where it is wanted: into a file, into the answer, or into the bucket."""

import base64
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from src.errors import InputError, truncated_repr
from src.storage.fetcher import is_key
from src.storage.s3 import S3Bucket

SUFFIX = ".mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Destination:
    """A key of the configured bucket, checked before any work."""

    bucket: S3Bucket
    key: str

    @property
    def address(self) -> str:
        """As `s3://bucket/key`."""
        return f"s3://{self.bucket.store.bucket}/{self.key}"

    def deliver(self, path: Path) -> str:
        """Store the video, and give a URL for it that works for a while."""
        self.bucket.put(path, self.key)
        return self.bucket.link(self.key)


def resolve_destination(bucket: S3Bucket | None, wanted: str | None, *, folder: str, name: str) -> S3Destination:
    """Where a video goes: `wanted` is a key ending in .mp4, a prefix ending in a slash, either with `s3://bucket/`
    before it, or None for a new key in `folder`, below the operator's prefix. InputError for any other, and without
    a bucket.
    """
    if bucket is None:
        raise InputError(f"{name}: this server has no bucket (the operator sets S3_BUCKET); base64 is allowed")
    prefix = bucket.store.output_prefix
    key = under_prefix(prefix, f"{folder}/") if wanted is None else wanted
    own = f"s3://{bucket.store.bucket}/"
    if key.startswith("s3://"):
        if not key.startswith(own):
            raise InputError(f"{name} is {truncated_repr(key)}; results go to {own}")
        key = key.removeprefix(own)
    key = f"{key}{uuid4().hex}{SUFFIX}" if key.endswith("/") or not key else key
    if not is_key(key) or not key.endswith(SUFFIX) or not key.startswith(prefix):
        begins = f" that begins with {prefix!r}" if prefix else ""
        raise InputError(f"{name} is {truncated_repr(wanted or key)}; a key{begins} and ends in {SUFFIX} is needed")
    return S3Destination(bucket=bucket, key=key)


def under_prefix(prefix: str, folder: str) -> str:
    """A folder of ours below the operator's prefix, unless it is there already."""
    return folder if folder.startswith(prefix) else f"{prefix.removesuffix('/')}/{folder}"


def to_base64(path: Path) -> str:
    """The video as text."""
    return base64.b64encode(path.read_bytes()).decode("ascii")


def copy_atomic(path: Path, target: Path) -> None:
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
