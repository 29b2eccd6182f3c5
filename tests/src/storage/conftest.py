"""The local S3 server, and settings for it."""

from collections.abc import Iterator

import pytest

from src.storage.s3 import S3Bucket
from src.storage.settings import StorageSettings, read_settings
from tests.src.storage.store import BUCKET, KEYS, LocalStore, local_store

OTHER, CLOSED = "others", "closed"


@pytest.fixture(scope="package")
def shared_store() -> Iterator[LocalStore]:
    with local_store(BUCKET, OTHER, CLOSED) as store:
        yield store


@pytest.fixture
def store(shared_store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStore]:
    """Without faults, and with the credentials where boto3 looks for them."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    shared_store.faults.seen.clear()
    yield shared_store
    shared_store.faults.refuse = lambda *_: False


@pytest.fixture
def settings(store: LocalStore) -> StorageSettings:
    return read_settings(store.environ() | {"S3_READABLE_BUCKETS": OTHER})


@pytest.fixture
def bucket(settings: StorageSettings) -> S3Bucket:
    assert settings.store is not None
    return S3Bucket(settings.store)
