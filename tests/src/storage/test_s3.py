"""S3Bucket against a local S3 server."""

import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext, request_context
from src.storage import s3 as s3_module
from src.storage.errors import StorageError
from src.storage.s3 import PART_BYTES, S3Bucket
from src.storage.settings import DownloadLimits
from tests.src.storage.conftest import FORBIDDEN, READABLE
from tests.src.storage.local_s3 import BUCKET, Answer, LocalS3

LIMITS = DownloadLimits(max_bytes=10 * PART_BYTES)
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


def error_answer(status: int, code: bytes) -> Answer:
    """S3's own form of an error."""
    return Answer(status, [], b"<Error><Code>%s</Code><Message>internal</Message></Error>" % code)


def without_range(answer: Answer) -> Answer:
    """The whole object, whatever range was asked for."""
    return Answer(200, [header for header in answer.headers if header[0].lower() != "content-range"], LARGE)


TRANSIENT: dict[str, Callable[[Answer], Answer | None]] = {
    "reset connection": lambda _: None,
    "connection ends in the middle": lambda answer: replace(
        answer, body=answer.body[:99], length=str(len(answer.body))
    ),
    "internal error": lambda _: error_answer(500, b"InternalError"),
    "overload": lambda _: error_answer(503, b"SlowDown"),
}
PERMANENT = TRANSIENT | {
    "too few bytes": lambda answer: replace(answer, body=answer.body[:-100]),
    "too many bytes": lambda answer: replace(answer, body=answer.body + b"x" * 100),
    "ignored range": without_range,
    "page of a proxy": lambda _: Answer(200, [], b"<html>"),
    "object changed meanwhile": lambda _: error_answer(412, b"PreconditionFailed"),
    "expired credentials": lambda _: error_answer(403, b"ExpiredToken"),
    "wrong clock": lambda _: error_answer(403, b"RequestTimeTooSkewed"),
    "redirect": lambda _: Answer(307, [("Location", "http://127.0.0.1:9/")], b""),
    "no XML": lambda _: Answer(500, [], b"<<<"),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_in_the_middle_is_retried(bucket: S3Bucket, s3: LocalS3, video: Path, fault: str) -> None:
    bucket.upload(video, "spoiled.mp4")
    spoiled: list[str] = []

    def spoil_once(method: str, path: str, answer: Answer) -> Answer | None:
        if method != "GET" or spoiled:
            return answer
        spoiled.append(path)
        return TRANSIENT[fault](answer)

    s3.faults.spoil = spoil_once
    copy = video.with_name("copy")
    bucket.download(BUCKET, "spoiled.mp4", copy, limits=LIMITS, name="image")
    assert copy.read_bytes() == LARGE
    assert spoiled


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_fault_is_an_error_and_leaves_no_file(
    bucket: S3Bucket, s3: LocalS3, video: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    bucket.upload(video, "spoiled.mp4")
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    without_retries = S3Bucket(bucket.config)
    s3.faults.spoil = lambda method, _, answer: PERMANENT[fault](answer) if method == "GET" else answer
    with pytest.raises(StorageError, match=r"S3 did not return 'spoiled\.mp4' \([A-Za-z0-9 ]+\)$"):
        without_retries.download(BUCKET, "spoiled.mp4", video.with_name("copy"), limits=LIMITS, name="image")
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_store_that_hangs_ends_with_the_limit_or_the_request(
    bucket: S3Bucket, s3: LocalS3, video: Path, *, is_cancelled: bool
) -> None:
    bucket.upload(video, "hanging.mp4")
    context, go_on = RequestContext(request_id="r1"), threading.Event()

    def hang(method: str, _: str, answer: Answer) -> Answer:
        if method == "GET":
            if is_cancelled:
                context.cancelled.set()
            go_on.wait(60)
        return answer

    s3.faults.spoil = hang
    limits = replace(LIMITS, max_seconds=3600 if is_cancelled else 0.2)
    with request_context(context), pytest.raises(CancelledError if is_cancelled else InputError):
        bucket.download(BUCKET, "hanging.mp4", video.with_name("copy"), limits=limits, name="image")
    go_on.set()
    assert not video.with_name("copy").exists()


@pytest.mark.parametrize("fault", ["reset connection", "internal error", "expired credentials"])
@pytest.mark.parametrize("step", ["partNumber=2", "POST"])
def test_a_fault_in_the_middle_of_an_upload_leaves_no_parts(
    bucket: S3Bucket, s3: LocalS3, video: Path, monkeypatch: pytest.MonkeyPatch, fault: str, step: str
) -> None:
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    s3.faults.spoil = lambda method, path, answer: (
        PERMANENT[fault](answer) if step in f"{method} {path}" and "uploadId=" in path else answer
    )
    with pytest.raises(StorageError, match=r"S3 did not store 'broken\.mp4'"):
        bucket.upload(video, "broken.mp4")
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=BUCKET)


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
