"""Where a batch keeps its results: a folder, or a prefix of the bucket. Each file is whole or not there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from src.errors import InputError, truncated_repr
from src.storage.outputs import copy_atomic
from src.storage.s3 import S3Bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStore:
    """Files by name; without a bucket `place` is a folder, else a prefix of keys."""

    place: str
    bucket: S3Bucket | None = None

    def put(self, path: Path, name: str) -> str:
        """Store a file; where it is."""
        if self.bucket is not None:
            return self.bucket.put(path, self.place + name)
        target = Path(self.place) / name
        copy_atomic(path, target)
        return str(target.absolute())

    def put_text(self, text: str, name: str) -> None:
        """Store a small text."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text"
            path.write_text(text, encoding="utf-8")
            self.put(path, name)

    def text(self, name: str) -> str | None:
        """A small text, or None when it is not there."""
        if self.bucket is not None:
            data = self.bucket.read(self.place + name)
            return None if data is None else data.decode()
        path = Path(self.place) / name
        return path.read_text(encoding="utf-8") if path.exists() else None


def open_output_store(place: str, bucket: S3Bucket | None) -> OutputStore:
    """`s3://bucket/prefix`, or a folder. InputError for a bucket that is not the configured one."""
    if not place.startswith("s3://"):
        return OutputStore(place=place)
    name, _, prefix = place[len("s3://") :].partition("/")
    if bucket is None or name != bucket.store.bucket:
        known = "none is configured (S3_BUCKET)" if bucket is None else f"{bucket.store.bucket!r} is needed"
        raise InputError(f"--output is in the bucket {truncated_repr(name)}; {known}")
    return OutputStore(place=f"{prefix.rstrip('/')}/" if prefix.strip("/") else "", bucket=bucket)
