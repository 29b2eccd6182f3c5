"""Where outputs are stored: a key of the bucket for one video, a folder or prefix for a batch, or base64."""

import base64
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from src.errors import InputError, truncated_repr
from src.serving.temp_dirs import owned_dir
from src.storage.keys import SCHEME, is_valid_key
from src.storage.s3 import S3Bucket

SUFFIX = ".mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Destination:
    """A validated key of the configured bucket."""

    bucket: S3Bucket
    key: str

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return self.bucket.uri(self.key)

    def upload(self, path: Path) -> str:
        """Store the video; a presigned URL for it."""
        self.bucket.upload(path, self.key)
        return self.bucket.presigned_url(self.key)


def resolve_destination(bucket: S3Bucket | None, requested: str | None, *, folder: str, name: str) -> S3Destination:
    """The key for a video, validated before any work.

    `requested` is a key that ends in .mp4, or a prefix that ends in a slash, to which a unique name is appended; either
    may be an `s3://bucket/` URI. None stands for a unique key in `folder` below the operator's output prefix.
    InputError, which names the input `name`, for anything else, and if no bucket is configured.
    """
    if bucket is None:
        raise InputError(f"{name}: this server has no bucket (the operator sets S3_BUCKET); base64 is allowed")
    prefix = bucket.config.output_prefix
    key = under_prefix(prefix, f"{folder}/") if requested is None else requested
    if key.startswith(SCHEME):
        if not key.startswith(bucket.uri("")):
            raise InputError(f"{name} is {truncated_repr(key)}; results go to {bucket.uri('')}")
        key = key.removeprefix(bucket.uri(""))
    key = f"{key}{uuid4().hex}{SUFFIX}" if key.endswith("/") or not key else key
    if not is_valid_key(key) or not key.endswith(SUFFIX) or not key.startswith(prefix):
        begins = f" that begins with {prefix!r}" if prefix else ""
        raise InputError(f"{name} is {truncated_repr(requested or key)}; a key{begins} and ends in {SUFFIX} is needed")
    return S3Destination(bucket=bucket, key=key)


def under_prefix(prefix: str, folder: str) -> str:
    """`folder` below the operator's prefix, unless it begins with it already."""
    return folder if folder.startswith(prefix) else f"{prefix.removesuffix('/')}/{folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStore:
    """Files by name, each complete or absent. `root` is a folder, or a prefix of keys if there is a bucket."""

    root: str
    bucket: S3Bucket | None = None

    def write_file(self, path: Path, name: str) -> str:
        """Store a copy of a file; its `s3://` URI or absolute path."""
        if self.bucket is not None:
            return self.bucket.upload(path, self.root + name)
        target = Path(self.root) / name
        copy_atomic(path, target)
        return str(target.absolute())

    def has_file(self, name: str) -> bool:
        """Whether a folder has such a file; a bucket is not asked."""
        return self.bucket is None and (Path(self.root) / name).exists()

    def write_text(self, text: str, name: str) -> None:
        """Store a text as a UTF-8 file."""
        with owned_dir("text-") as folder:
            path = folder / "text"
            path.write_text(text, encoding="utf-8")
            self.write_file(path, name)

    def read_text(self, name: str) -> str | None:
        """The content of a text file, None if it does not exist."""
        if self.bucket is not None:
            data = self.bucket.read(self.root + name)
            return None if data is None else data.decode()
        path = Path(self.root) / name
        return path.read_text(encoding="utf-8") if path.exists() else None


def open_output_store(location: str, bucket: S3Bucket | None) -> OutputStore:
    """`s3://bucket/prefix`, or a folder. InputError for a bucket other than the configured one."""
    if not location.startswith(SCHEME):
        return OutputStore(root=location)
    bucket_name, _, prefix = location.removeprefix(SCHEME).partition("/")
    if bucket is None or bucket_name != bucket.name:
        allowed = "none is configured (S3_BUCKET)" if bucket is None else f"{bucket.name!r} is needed"
        raise InputError(f"--output is in the bucket {truncated_repr(bucket_name)}; {allowed}")
    return OutputStore(root=f"{prefix.rstrip('/')}/" if prefix.strip("/") else "", bucket=bucket)


def copy_atomic(path: Path, target: Path) -> None:
    """Copy a file to `target`, which is either complete or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        shutil.copyfile(path, tmp_path)
        with tmp_path.open("rb") as file:
            os.fsync(file.fileno())
        tmp_path.replace(target)
    finally:
        tmp_path.unlink(missing_ok=True)


def to_base64(path: Path) -> str:
    """The content of a file in base64."""
    return base64.b64encode(path.read_bytes()).decode("ascii")
