"""An S3 bucket by boto3: multipart transfers, retries, and objects and files that appear only when complete."""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import S3DownloadFailedError

from src.environment import first_set
from src.errors import InputError, truncated_repr
from src.serving.cancellation import cancel_event, raise_if_cancelled, run_cancellable
from src.storage.errors import DownloadTimeoutError, StorageError
from src.storage.http.connection import time_left
from src.storage.http.download import check_size, timeout_error
from src.storage.keys import SCHEME
from src.storage.settings import DownloadLimits, S3Config

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
MAX_ATTEMPTS = 5
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
NOT_FOUND = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
FORBIDDEN = {"403", "AccessDenied", "Forbidden"}


class S3Bucket:
    """The configured bucket. boto3 finds credentials and region in its usual variables and files."""

    def __init__(self, config: S3Config) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self.config.bucket

    @cached_property
    def client(self) -> Any:
        """Created on first use, since finding credentials may take seconds."""
        config = Config(
            retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            signature_version="s3v4",
            s3={"addressing_style": "path"} if self.config.endpoint else {},
        )
        region = first_set(os.environ, "AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"
        return boto3.client("s3", endpoint_url=self.config.endpoint, region_name=region, config=config)

    def download(self, bucket: str, key: str, path: Path, *, limits: DownloadLimits, name: str) -> None:
        """Write an object of any readable bucket to `path`, which exists afterwards only if it is complete.

        InputError, which names the input `name`, for an object that does not exist, may not be read or exceeds the
        limits; StorageError for a fault of the store.
        """
        if not self.config.may_read(bucket):
            raise InputError(
                f"{name} is in the bucket {truncated_repr(bucket)}; allowed is {self.name!r} "
                "(the operator adds others to S3_READABLE_BUCKETS)"
            )
        deadline = time.monotonic() + limits.max_seconds

        def check() -> None:
            raise_if_cancelled()
            time_left(deadline)

        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
            tmp_path = Path(folder) / path.name
            try:
                run_cancellable(lambda: self.download_parts(bucket, key, tmp_path, limits, name), check)
                check()  # it may have ended between two checks
            except DownloadTimeoutError as error:
                raise timeout_error(truncated_repr(key), limits, name) from error
            tmp_path.replace(path)

    def download_parts(self, bucket: str, key: str, tmp_path: Path, limits: DownloadLimits, name: str) -> None:
        """Write an object to `tmp_path`; StorageError if that has not the size that the store declares."""
        cancelled, received = cancel_event(), 0

        def count(num_bytes: int) -> None:
            nonlocal received
            received += num_bytes
            check_size(received, limits, name)
            if cancelled.is_set():
                raise DownloadTimeoutError

        options = {"Config": TRANSFER, "Callback": count}
        head = request_object(lambda: self.client.head_object(Bucket=bucket, Key=key), bucket, key, name)
        check_size(head["ContentLength"], limits, name)
        request_object(lambda: self.client.download_file(bucket, key, str(tmp_path), **options), bucket, key, name)
        if (size := tmp_path.stat().st_size) != head["ContentLength"]:
            logger.error(
                "S3 returned %s bytes of %s, whose size is %s", size, truncated_repr(key), head["ContentLength"]
            )
            raise StorageError(f"S3 did not return {truncated_repr(key)} (wrong size)")

    def upload(self, path: Path, key: str) -> str:
        """Store a file under a key; its `s3://` URI. A failed upload leaves neither an object nor parts."""
        extra = {"ContentType": "application/json" if key.endswith(".json") else "video/mp4"}
        try:
            self.client.upload_file(str(path), self.name, key, ExtraArgs=extra, Config=TRANSFER)
        except (ClientError, BotoCoreError, Boto3Error, OSError) as error:
            raise storage_error("store", key, error) from error
        return self.uri(key)

    def read(self, key: str) -> bytes | None:
        """The content of a small object of this bucket, None if it does not exist."""
        try:
            body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except (ClientError, BotoCoreError, OSError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in NOT_FOUND:
                return None
            raise storage_error("return", key, error) from error
        return body

    def presigned_url(self, key: str) -> str:
        """A URL to read one object, valid for the configured time."""
        parameters = {"Bucket": self.name, "Key": key}
        expires_s = int(self.config.url_seconds)
        url: str = self.client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s)
        return url

    def uri(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"{SCHEME}{self.name}/{key}"


def request_object(request: Callable[[], Any], bucket: str, key: str, name: str) -> Any:
    """The response to a request for an object; InputError if it does not exist or may not be read."""
    try:
        return request()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in NOT_FOUND:
            raise InputError(
                f"{name}: there is no {truncated_repr(key)} in the bucket {bucket!r}; an existing key is needed"
            ) from error
        if code in FORBIDDEN:
            raise InputError(
                f"{name}: {truncated_repr(key)} in the bucket {bucket!r} may not be read with this server's "
                "credentials; an object that it may read is needed"
            ) from error
        raise storage_error("return", key, error) from error
    except (BotoCoreError, Boto3Error, S3DownloadFailedError, OSError) as error:
        raise storage_error("return", key, error) from error


def storage_error(action: str, key: str, error: Exception) -> StorageError:
    """The error for the caller; its cause, which may hold internal addresses, is only logged."""
    logger.error("S3 did not %s %s: %s", action, truncated_repr(key), error)
    return StorageError(f"S3 did not {action} {truncated_repr(key)} ({type(error).__name__})")
