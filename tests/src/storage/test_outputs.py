"""Where results go."""

import base64
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import InputError
from src.storage.outputs import copy_atomic, resolve_destination, to_base64
from src.storage.s3 import S3Bucket
from tests.src.storage.store import BUCKET, LocalStore


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ("mine/a.mp4", r"mine/a\.mp4"),
        (f"s3://{BUCKET}/mine/b.mp4", r"mine/b\.mp4"),
        ("mine/", r"mine/[0-9a-f]{32}\.mp4"),
        (f"s3://{BUCKET}/", r"[0-9a-f]{32}\.mp4"),
        (None, r"outputs/[0-9a-f]{32}\.mp4"),
    ],
)
def test_keys_and_prefixes(bucket: S3Bucket, store: LocalStore, tmp_path: Path, wanted: str | None, key: str) -> None:
    place = resolve_destination(bucket, wanted, folder="outputs", name="s3_output_key")
    assert re.fullmatch(key, place.key)
    assert place.address == f"s3://{BUCKET}/{place.key}"
    assert place.key not in store.objects()
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    with urllib.request.urlopen(place.deliver(path)) as answer:
        assert answer.read() == b"video"
    assert place.key in store.objects()


@pytest.mark.parametrize(
    "wanted", ["weights/model.safetensors", "../a.mp4", "a//b.mp4", "s3://theirs/a.mp4", "/a.mp4", "a\n.mp4", ".mp4/.."]
)
def test_keys_that_results_cannot_have(bucket: S3Bucket, wanted: str) -> None:
    with pytest.raises(InputError, match=r"^s3_output_key is "):
        resolve_destination(bucket, wanted, folder="outputs", name="s3_output_key")


def test_a_prefix_that_the_operator_chose(bucket: S3Bucket) -> None:
    fenced = S3Bucket(replace(bucket.store, output_prefix="outputs/"))
    assert resolve_destination(fenced, "outputs/a.mp4", folder="outputs", name="x").key == "outputs/a.mp4"
    with pytest.raises(InputError, match="begins with 'outputs/'"):
        resolve_destination(fenced, "inputs/a.mp4", folder="outputs", name="x")


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("outputs/", r"outputs/[0-9a-f]{32}\.mp4"),
        ("mine/", r"mine/outputs/[0-9a-f]{32}\.mp4"),
        ("mine", r"mine/outputs/[0-9a-f]{32}\.mp4"),
    ],
)
def test_who_names_no_key_gets_one_below_the_prefix(bucket: S3Bucket, prefix: str, key: str) -> None:
    fenced = S3Bucket(replace(bucket.store, output_prefix=prefix))
    assert re.fullmatch(key, resolve_destination(fenced, None, folder="outputs", name="x").key)


def test_without_a_bucket() -> None:
    with pytest.raises(InputError, match="has no bucket"):
        resolve_destination(None, "a.mp4", folder="outputs", name="s3_output_key")


def test_files_and_base64(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    copy_atomic(path, tmp_path / "new" / "copy.mp4")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["copy.mp4"]
    assert (tmp_path / "new" / "copy.mp4").read_bytes() == b"video"
    assert base64.b64decode(to_base64(path)) == b"video"
    with pytest.raises(FileNotFoundError):
        copy_atomic(tmp_path / "missing.mp4", tmp_path / "new" / "other.mp4")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["copy.mp4"]
