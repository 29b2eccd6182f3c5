"""A bucket over the real protocol."""

import urllib.request
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from src.errors import InputError
from src.storage import s3 as bucket_module
from src.storage.errors import StorageError
from src.storage.s3 import PART_BYTES, S3Bucket
from src.storage.settings import DownloadLimits
from tests.src.storage.conftest import CLOSED, OTHER
from tests.src.storage.store import BUCKET, LocalStore

LIMITS = DownloadLimits(max_bytes=5 * PART_BYTES)
LARGE = bytes(range(256)) * (PART_BYTES // 256) * 2 + b"end"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(LARGE)
    return path


def test_a_large_file_goes_in_parts_and_comes_back(bucket: S3Bucket, store: LocalStore, video: Path) -> None:
    assert bucket.put(video, "outputs/large.mp4") == f"s3://{BUCKET}/outputs/large.mp4"
    parts = [line for line in store.faults.seen if "partNumber=" in line]
    assert len(parts) == 3
    back = video.with_name("back")
    bucket.get(BUCKET, "outputs/large.mp4", back, limits=LIMITS, name="image")
    assert back.read_bytes() == LARGE
    assert store.client().head_object(Bucket=BUCKET, Key="outputs/large.mp4")["ContentType"] == "video/mp4"


def test_passing_faults_are_tried_again(bucket: S3Bucket, store: LocalStore, video: Path) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> bool:
        """Refuse each different request the first time."""
        seen = f"{method} {path}"
        return seen not in failed and not failed.add(seen)  # type: ignore[func-returns-value]

    store.faults.refuse = once
    bucket.put(video, "retried.mp4")
    back = video.with_name("back")
    bucket.get(BUCKET, "retried.mp4", back, limits=LIMITS, name="image")
    assert back.read_bytes() == LARGE
    assert len(failed) >= 5


def test_a_failed_upload_leaves_nothing(
    bucket: S3Bucket, store: LocalStore, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "ATTEMPTS", 1)
    store.faults.refuse = lambda method, path: "partNumber=2" in path
    with pytest.raises(StorageError, match=r"did not take 'broken\.mp4'"):
        bucket.put(video, "broken.mp4")
    assert "broken.mp4" not in store.objects()
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=BUCKET)


def test_nothing_is_visible_before_the_last_part(bucket: S3Bucket, store: LocalStore, video: Path) -> None:
    seen_before_the_end: list[bool] = []

    def look(method: str, path: str) -> bool:
        if method == "POST" and "uploadId=" in path:
            seen_before_the_end.append("partly.mp4" in store.objects())
        return False

    store.faults.refuse = look
    bucket.put(video, "partly.mp4")
    assert seen_before_the_end == [False]
    assert "partly.mp4" in store.objects()


def test_a_failed_download_leaves_no_file(
    bucket: S3Bucket, store: LocalStore, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(video, "there.mp4")
    monkeypatch.setattr(bucket_module, "ATTEMPTS", 1)
    fresh = S3Bucket(bucket.store)
    store.faults.refuse = lambda method, path: method == "GET"
    with pytest.raises(StorageError, match=r"did not give 'there\.mp4'"):
        fresh.get(BUCKET, "there.mp4", video.with_name("back"), limits=LIMITS, name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


def test_time_is_bounded(bucket: S3Bucket, video: Path) -> None:
    bucket.put(video, "slow.mp4")
    with pytest.raises(InputError, match=r"image: 'slow\.mp4' was not here after 1e-06 s.*MAX_DOWNLOAD_SECONDS"):
        bucket.get(BUCKET, "slow.mp4", video.with_name("back"), limits=replace(LIMITS, max_seconds=1e-6), name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


def test_what_the_caller_got_wrong(bucket: S3Bucket, video: Path) -> None:
    bucket.put(video, "there.mp4")
    cases = {
        (BUCKET, "missing.png"): "there is no 'missing.png' in the bucket 'talks'",
        (OTHER, "missing.png"): "there is no 'missing.png'",
        (CLOSED, "x.png"): "'closed'; allowed is 'talks'.*S3_READABLE_BUCKETS",
    }
    for (name, key), words in cases.items():
        with pytest.raises(InputError, match=f"^image.*{words}"):
            bucket.get(name, key, video.with_name("back"), limits=LIMITS, name="image")
    with pytest.raises(InputError, match=r"image has 16,777,219 bytes or more; at most 1,000"):
        bucket.get(BUCKET, "there.mp4", video.with_name("back"), limits=DownloadLimits(max_bytes=1000), name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


def test_a_link_works_for_its_life_and_answers_ranges(bucket: S3Bucket, store: LocalStore, video: Path) -> None:
    brief = S3Bucket(replace(bucket.store, url_seconds=60))
    brief.put(video, "linked.mp4")
    link = brief.link("linked.mp4")
    assert "X-Amz-Expires=60&" in link
    request = urllib.request.Request(link, headers={"Range": "bytes=0-3"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.read() == LARGE[:4]


def test_a_store_that_is_away(tmp_path: Path, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "ATTEMPTS", 1)
    away = S3Bucket(replace(bucket.store, endpoint="http://127.0.0.1:9"))
    with pytest.raises(StorageError, match="did not give 'x' ") as error:
        away.get(BUCKET, "x", tmp_path / "x", limits=LIMITS, name="image")
    assert "127.0.0.1" not in str(error.value)


def test_without_credentials_it_says_so(tmp_path: Path, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageError, match="NoCredentials"):
        S3Bucket(bucket.store).get(BUCKET, "x", tmp_path / "x", limits=LIMITS, name="image")
