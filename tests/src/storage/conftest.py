"""The local S3 server, and settings for it."""

from collections.abc import Iterator

import pytest

from src.storage.s3 import S3Bucket
from src.storage.settings import StorageSettings, read_settings
from tests.src.storage.local_s3 import BUCKET, CREDENTIALS, LocalS3, local_s3

READABLE, FORBIDDEN = "others", "closed"


@pytest.fixture(scope="package")
def shared_s3() -> Iterator[LocalS3]:
    with local_s3(BUCKET, READABLE, FORBIDDEN) as server:
        yield server


@pytest.fixture
def s3(shared_s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    """Without faults, and with credentials in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    shared_s3.faults.requests.clear()
    yield shared_s3
    shared_s3.faults.refuse = lambda *_: False
    shared_s3.faults.spoil = lambda _method, _path, answer: answer


@pytest.fixture
def settings(s3: LocalS3) -> StorageSettings:
    return read_settings(s3.environ() | {"S3_READABLE_BUCKETS": READABLE})


@pytest.fixture
def bucket(settings: StorageSettings) -> S3Bucket:
    assert settings.s3 is not None
    return S3Bucket(settings.s3)
