"""A bucket of an S3 store, by boto3: large files in parts, faults tried again, nothing visible before it is whole."""

import logging
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from src.errors import InputError, truncated_repr
from src.storage.errors import DownloadTooLongError, StorageError
from src.storage.http.connection import time_left
from src.storage.http.download import check_size, too_late
from src.storage.settings import DownloadLimits, S3Config

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
ATTEMPTS = 5
CONNECT_S, READ_S = 10, 60
TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
NOT_FOUND = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
FORBIDDEN = {"403", "AccessDenied", "Forbidden"}


class S3Bucket:
    """Files in and out. Credentials and region come from the usual variables and places, which boto3 knows."""

    def __init__(self, store: S3Config) -> None:
        self.store = store

    @cached_property
    def client(self) -> Any:
        """Made when it is first needed: finding credentials may take a while."""
        style = {"addressing_style": "path"} if self.store.endpoint else {}
        config = Config(
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            signature_version="s3v4",
            s3=style,
        )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return boto3.client("s3", endpoint_url=self.store.endpoint, region_name=region, config=config)

    def get(self, bucket: str, key: str, path: Path, *, limits: DownloadLimits, name: str) -> None:
        """Write an object to `path`, which exists afterwards only if it is whole.

        InputError for one that is not there, not ours to read, too large, or not here in time.
        """
        if not self.store.may_read(bucket):
            raise InputError(
                f"{name} is in the bucket {truncated_repr(bucket)}; allowed is {self.store.bucket!r} "
                "(the operator adds others to S3_READABLE_BUCKETS)"
            )
        draft = path.with_name(f"{path.name}.part")
        deadline = time.monotonic() + limits.max_seconds
        more = {"Config": TRANSFER, "Callback": lambda _: time_left(deadline)}
        try:
            head = self.call(lambda: self.client.head_object(Bucket=bucket, Key=key), bucket, key, name)
            check_size(head["ContentLength"], limits, name)
            self.call(lambda: self.client.download_file(bucket, key, str(draft), **more), bucket, key, name)
            draft.replace(path)
        except DownloadTooLongError as error:
            raise too_late(truncated_repr(key), limits, name) from error
        finally:
            draft.unlink(missing_ok=True)

    def call(self, request: Callable[[], Any], bucket: str, key: str, name: str) -> Any:
        """The answer of a request for an object; what the caller got wrong becomes an InputError."""
        try:
            return request()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in NOT_FOUND:
                raise InputError(
                    f"{name}: there is no {truncated_repr(key)} in the bucket {bucket!r}; a key of it is needed"
                ) from error
            if code in FORBIDDEN:
                raise InputError(
                    f"{name}: {truncated_repr(key)} in the bucket {bucket!r} may not be read with this server's "
                    f"credentials; "
                    "one that it may read is needed"
                ) from error
            raise failure("give", key, error) from error
        except (BotoCoreError, Boto3Error, OSError) as error:
            raise failure("give", key, error) from error

    def put(self, path: Path, key: str) -> str:
        """Store a video under a key; its `s3://` address. A failed upload leaves nothing, not even parts."""
        extra = {"ContentType": "application/json" if key.endswith(".json") else "video/mp4"}
        try:
            self.client.upload_file(str(path), self.store.bucket, key, ExtraArgs=extra, Config=TRANSFER)
        except (ClientError, BotoCoreError, S3UploadFailedError, OSError) as error:
            raise failure("take", key, error) from error
        return f"s3://{self.store.bucket}/{key}"

    def read(self, key: str) -> bytes | None:
        """A small object of ours, or None."""
        try:
            body: bytes = self.client.get_object(Bucket=self.store.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in NOT_FOUND:
                return None
            raise failure("give", key, error) from error
        except (BotoCoreError, OSError) as error:
            raise failure("give", key, error) from error
        return body

    def link(self, key: str) -> str:
        """A URL for one object, which works for as long as the operator chose."""
        parameters = {"Bucket": self.store.bucket, "Key": key}
        url: str = self.client.generate_presigned_url(
            "get_object", Params=parameters, ExpiresIn=int(self.store.url_seconds)
        )
        return url


def failure(what: str, key: str, error: Exception) -> StorageError:
    """For the caller; what exactly happened, perhaps with addresses of ours, is for the log."""
    logger.error("S3 did not %s %s: %s", what, truncated_repr(key), error)
    return StorageError(f"S3 did not {what} {truncated_repr(key)} ({type(error).__name__})")
