"""Fetch a file that a request names, in any of its forms, into a folder of this server.

Forms: `https://…`, `data:…`, raw base64, `s3://bucket/key`, a key of the configured bucket, and, if the operator
allows it, a path on this machine. File names are never taken from the request.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from src.errors import InputError, truncated_repr
from src.media.file_type import HEAD_BYTES, SIGNATURES
from src.storage.http.download import Downloader, check_size
from src.storage.keys import SCHEME as S3_SCHEME
from src.storage.keys import is_valid_key
from src.storage.settings import DownloadLimits, StorageSettings

if TYPE_CHECKING:  # boto3 comes with the extra `deploy` only
    from src.storage.s3 import S3Bucket

FORMS = "an https URL, a data URI or base64 is needed"
FORMS_WITH_BUCKET = "an https URL, a data URI, base64, an s3:// address or a key of the bucket is needed"
URL_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
MIN_BASE64_CHARS = 64
"""Shorter texts are taken for keys: no image or audio file is that short."""
BITS_PER_CHAR = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFetcher:
    """Fetches input files within `limits`."""

    limits: DownloadLimits
    bucket: "S3Bucket | None"
    downloader: Downloader

    def fetch(self, value: str, folder: Path, *, name: str) -> Path:
        """The file as `folder`/`name`; a local path that the operator allows is returned unchanged.

        Raises InputError, which names the input, for a file that does not exist, is not allowed or too large, or in no
        known form; StorageError if the operator's store fails; CancelledError.
        """
        path = folder / name
        match = URL_SCHEME.match(value)
        scheme = match[1].lower() if match else ""
        if scheme in {"https", "http"}:
            self.downloader.download(value, path, name=name)
        elif scheme == "data":
            path.write_bytes(decode_data_uri(value, self.limits, name))
        elif value.lower().startswith(S3_SCHEME):
            self.download_uri(value, path, name)
        elif (data := decode_raw_base64(value, self.limits, name)) is not None:
            path.write_bytes(data)
        elif self.limits.local_files and value.startswith(("/", "./", "../")):
            return Path(value)
        elif not scheme and self.bucket is not None and is_valid_key(value):
            self.bucket.download(self.bucket.name, value, path, limits=self.limits, name=name)
        else:
            forms = FORMS if self.bucket is None else FORMS_WITH_BUCKET
            raise InputError(f"{name} is {truncated_repr(value)}; {forms}")
        return path

    def download_uri(self, value: str, path: Path, name: str) -> None:
        """Download `s3://bucket/key`."""
        bucket, _, key = value[len(S3_SCHEME) :].partition("/")
        if self.bucket is None:
            raise InputError(f"{name} is {truncated_repr(value)}, but this server has no bucket (S3_BUCKET); {FORMS}")
        if not bucket or not is_valid_key(key):
            raise InputError(f"{name} is {truncated_repr(value)}; s3://bucket/key is needed")
        self.bucket.download(bucket, key, path, limits=self.limits, name=name)


def make_fetcher(settings: StorageSettings) -> InputFetcher:
    """A fetcher for the operator's settings."""
    if settings.s3 is None:
        return make_fetcher_without_bucket(settings.limits)
    from src.storage.s3 import S3Bucket

    downloader = Downloader(limits=settings.limits)
    return InputFetcher(limits=settings.limits, bucket=S3Bucket(settings.s3), downloader=downloader)


def make_fetcher_without_bucket(limits: DownloadLimits) -> InputFetcher:
    """A fetcher of URLs and data, which needs no boto3."""
    return InputFetcher(limits=limits, bucket=None, downloader=Downloader(limits=limits))


def decode_data_uri(value: str, limits: DownloadLimits, name: str) -> bytes:
    """The data of a data URI, in base64 or percent-encoded."""
    header, comma, body = value.partition(",")
    if not comma:
        raise InputError(f"{name} is {truncated_repr(value)}; a data URI has a comma before its data")
    if header.lower().endswith(";base64"):
        data = decode_base64(body, limits, name)
    else:
        check_size(len(body) // 3, limits, name)
        try:
            data = unquote_to_bytes(body)
        except UnicodeEncodeError as error:
            raise InputError(f"{name}: the data URI holds half of a character ({error.reason})") from error
    check_size(len(data), limits, name)
    return data


def decode_raw_base64(value: str, limits: DownloadLimits, name: str) -> bytes | None:
    """The data of base64 without a data URI, if it begins like a file of a known type; None for any other text."""
    beginning = "".join(value[: 2 * HEAD_BYTES].split())
    if len(value) < MIN_BASE64_CHARS or not BASE64.fullmatch(beginning):
        return None
    try:
        head = base64.b64decode(beginning[: len(beginning) // 4 * 4])
    except binascii.Error:
        return None
    if not any(head[offset:].startswith(magic) for offset, magic, _ in SIGNATURES):
        return None
    return decode_base64(value, limits, name)


def decode_base64(text: str, limits: DownloadLimits, name: str) -> bytes:
    """The data of base64 with or without line breaks; InputError for invalid or too much of it."""
    check_size(len(text) * BITS_PER_CHAR // 8 - 4, limits, name)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is not valid base64 ({error}); complete base64 is needed") from error
