"""S3Bucket against a local S3 server."""

import urllib.request
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from src.errors import InputError
from src.storage import s3 as s3_module
from src.storage.errors import StorageError
from src.storage.s3 import PART_BYTES, S3Bucket
from src.storage.settings import DownloadLimits
from tests.src.storage.conftest import FORBIDDEN, READABLE
from tests.src.storage.local_s3 import BUCKET, LocalS3

LIMITS = DownloadLimits(max_bytes=5 * PART_BYTES)
LARGE = bytes(range(256)) * (PART_BYTES // 256) * 2 + b"end"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(LARGE)
    return path


def test_large_files_are_transferred_in_parts(bucket: S3Bucket, s3: LocalS3, video: Path) -> None:
    assert bucket.upload(video, "outputs/large.mp4") == f"s3://{BUCKET}/outputs/large.mp4"
    assert sum("partNumber=" in request for request in s3.faults.requests) == 3
    copy = video.with_name("copy")
    bucket.download(BUCKET, "outputs/large.mp4", copy, limits=LIMITS, name="image")
    assert copy.read_bytes() == LARGE
    assert s3.client().head_object(Bucket=BUCKET, Key="outputs/large.mp4")["ContentType"] == "video/mp4"


def test_transient_faults_are_retried(bucket: S3Bucket, s3: LocalS3, video: Path) -> None:
    refused: set[str] = set()

    def refuse_once(method: str, path: str) -> bool:
        request = f"{method} {path}"
        return request not in refused and not refused.add(request)  # type: ignore[func-returns-value]

    s3.faults.refuse = refuse_once
    bucket.upload(video, "retried.mp4")
    copy = video.with_name("copy")
    bucket.download(BUCKET, "retried.mp4", copy, limits=LIMITS, name="image")
    assert copy.read_bytes() == LARGE
    assert len(refused) >= 5


def test_a_failed_upload_leaves_neither_object_nor_parts(
    bucket: S3Bucket, s3: LocalS3, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    s3.faults.refuse = lambda method, path: "partNumber=2" in path
    with pytest.raises(StorageError, match=r"broken\.mp4"):
        bucket.upload(video, "broken.mp4")
    assert "broken.mp4" not in s3.objects()
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=BUCKET)


def test_an_object_appears_with_its_last_part(bucket: S3Bucket, s3: LocalS3, video: Path) -> None:
    visible_before_completion: list[bool] = []

    def observe(method: str, path: str) -> bool:
        if method == "POST" and "uploadId=" in path:
            visible_before_completion.append("partly.mp4" in s3.objects())
        return False

    s3.faults.refuse = observe
    bucket.upload(video, "partly.mp4")
    assert visible_before_completion == [False]
    assert "partly.mp4" in s3.objects()


def test_a_failed_download_leaves_no_file(
    bucket: S3Bucket, s3: LocalS3, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(video, "there.mp4")
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    without_retries = S3Bucket(bucket.config)
    s3.faults.refuse = lambda method, path: method == "GET"
    with pytest.raises(StorageError, match=r"there\.mp4"):
        without_retries.download(BUCKET, "there.mp4", video.with_name("copy"), limits=LIMITS, name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize("limits", [replace(LIMITS, max_seconds=1e-6), replace(LIMITS, max_bytes=1000)])
def test_downloads_are_bounded_in_time_and_size(bucket: S3Bucket, video: Path, limits: DownloadLimits) -> None:
    bucket.upload(video, "large.mp4")
    with pytest.raises(InputError, match=r"^image"):
        bucket.download(BUCKET, "large.mp4", video.with_name("copy"), limits=limits, name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(
    ("name", "key"), [(BUCKET, "missing.png"), (READABLE, "missing.png"), (FORBIDDEN, "x.png"), ("unknown", "x.png")]
)
def test_missing_and_unreadable_objects_are_input_errors(bucket: S3Bucket, tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(InputError, match=r"^image"):
        bucket.download(name, key, tmp_path / "copy", limits=LIMITS, name="image")
    assert not list(tmp_path.iterdir())


def test_a_presigned_url_expires_and_supports_ranges(bucket: S3Bucket, video: Path) -> None:
    short_lived = S3Bucket(replace(bucket.config, url_seconds=60))
    short_lived.upload(video, "linked.mp4")
    url = short_lived.presigned_url("linked.mp4")
    assert "X-Amz-Expires=60&" in url
    request = urllib.request.Request(url, headers={"Range": "bytes=0-3"})
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        assert response.read() == LARGE[:4]


def test_errors_do_not_reveal_the_endpoint(tmp_path: Path, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    unreachable = S3Bucket(replace(bucket.config, endpoint="http://127.0.0.1:9"))
    with pytest.raises(StorageError) as error:
        unreachable.download(BUCKET, "x", tmp_path / "x", limits=LIMITS, name="image")
    assert "127.0.0.1" not in str(error.value)


def test_missing_credentials_are_named(tmp_path: Path, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageError, match="NoCredentials"):
        S3Bucket(bucket.config).download(BUCKET, "x", tmp_path / "x", limits=LIMITS, name="image")
