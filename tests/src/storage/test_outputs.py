"""Keys for outputs, the store of a batch, and atomic copies."""

import base64
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import InputError
from src.storage.outputs import copy_atomic, open_output_store, resolve_destination, to_base64
from src.storage.s3 import S3Bucket
from tests.src.storage.local_s3 import BUCKET, LocalS3


@pytest.mark.parametrize(
    ("requested", "key"),
    [
        ("mine/a.mp4", r"mine/a\.mp4"),
        (f"s3://{BUCKET}/mine/b.mp4", r"mine/b\.mp4"),
        ("mine/", r"mine/[0-9a-f]{32}\.mp4"),
        (f"s3://{BUCKET}/", r"[0-9a-f]{32}\.mp4"),
        (None, r"outputs/[0-9a-f]{32}\.mp4"),
    ],
)
def test_keys_and_prefixes(bucket: S3Bucket, s3: LocalS3, tmp_path: Path, requested: str | None, key: str) -> None:
    destination = resolve_destination(bucket, requested, folder="outputs", name="s3_output_key")
    assert re.fullmatch(key, destination.key)
    assert destination.uri == f"s3://{BUCKET}/{destination.key}"
    assert destination.key not in s3.objects()
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    with urllib.request.urlopen(destination.upload(path)) as response:
        assert response.read() == b"video"
    assert destination.key in s3.objects()


@pytest.mark.parametrize(
    "key", ["weights/model.safetensors", "../a.mp4", "a//b.mp4", "s3://theirs/a.mp4", "/a.mp4", "a\n.mp4", ".mp4/.."]
)
def test_invalid_keys_are_refused(bucket: S3Bucket, key: str) -> None:
    with pytest.raises(InputError, match=r"^s3_output_key is "):
        resolve_destination(bucket, key, folder="outputs", name="s3_output_key")


def test_requested_keys_must_have_the_operators_prefix(bucket: S3Bucket) -> None:
    prefixed = S3Bucket(replace(bucket.config, output_prefix="outputs/"))
    assert resolve_destination(prefixed, "outputs/a.mp4", folder="outputs", name="x").key == "outputs/a.mp4"
    with pytest.raises(InputError, match="'outputs/'"):
        resolve_destination(prefixed, "inputs/a.mp4", folder="outputs", name="x")


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("outputs/", r"outputs/[0-9a-f]{32}\.mp4"),
        ("mine/", r"mine/outputs/[0-9a-f]{32}\.mp4"),
        ("mine", r"mine/outputs/[0-9a-f]{32}\.mp4"),
    ],
)
def test_default_keys_are_below_the_operators_prefix(bucket: S3Bucket, prefix: str, key: str) -> None:
    prefixed = S3Bucket(replace(bucket.config, output_prefix=prefix))
    assert re.fullmatch(key, resolve_destination(prefixed, None, folder="outputs", name="x").key)


def test_a_destination_needs_a_bucket() -> None:
    with pytest.raises(InputError, match=r"^s3_output_key"):
        resolve_destination(None, "a.mp4", folder="outputs", name="s3_output_key")


def test_an_output_store_in_a_folder_or_the_bucket(bucket: S3Bucket, s3: LocalS3, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    for location, uri in (
        (str(tmp_path / "out"), str(tmp_path / "out" / "1.mp4")),
        (f"s3://{BUCKET}/batch", f"s3://{BUCKET}/batch/1.mp4"),
    ):
        store = open_output_store(location, bucket)
        assert store.read_text("1.json") is None
        store.write_text("ä", "1.json")
        assert store.read_text("1.json") == "ä"
        assert store.write_file(path, "1.mp4") == uri
    assert (tmp_path / "out" / "1.mp4").read_bytes() == b"video"
    assert "batch/1.mp4" in s3.objects()
    for other in (bucket, None):
        with pytest.raises(InputError, match=r"^--output"):
            open_output_store("s3://theirs/batch", other)


def test_copies_are_atomic(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    copy_atomic(path, tmp_path / "new" / "copy.mp4")
    assert (tmp_path / "new" / "copy.mp4").read_bytes() == b"video"
    with pytest.raises(FileNotFoundError):
        copy_atomic(tmp_path / "missing.mp4", tmp_path / "new" / "other.mp4")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["copy.mp4"]


def test_base64(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    assert base64.b64decode(to_base64(path)) == b"video"
