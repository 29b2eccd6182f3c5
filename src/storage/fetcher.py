"""A file that a request names, in any of its forms, as a file in a folder of ours.

Forms: `https://…`, `data:…`, bare base64, `s3://bucket/key`, a key of the configured bucket, and, where the operator
allows it, a path on this machine. What a request says never becomes the name of a file.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from src.errors import InputError, truncated_repr
from src.media.file_type import HEAD_BYTES, SIGNATURES
from src.storage.http.download import Check, Downloader, always_wanted, check_size
from src.storage.s3 import S3Bucket
from src.storage.settings import DownloadLimits, StorageSettings

FORMS = "an https URL, a data URI or base64 is needed"
WITH_BUCKET = "an https URL, a data URI, base64, an s3:// address or a key of the bucket is needed"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
ADDRESS = "s3://"
LEAST_BASE64 = 64
"""No picture or sound is shorter than this in base64; a key that looks like base64 usually is."""
MAX_KEY_BYTES = 1024
BITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFetcher:
    """Fetches what requests name."""

    limits: DownloadLimits
    bucket: S3Bucket | None
    downloader: Downloader

    def fetch(self, value: str, folder: Path, *, name: str, check: Check = always_wanted) -> Path:
        """The file, as `folder`/`name`; a path that the operator allows stays where it is. A download asks `check`.

        Raises InputError, which names the input, for what is not there, not allowed, too large or in no known form;
        StorageError when the operator's store fails.
        """
        path = folder / name
        scheme = SCHEME.match(value)
        kind = scheme[1].lower() if scheme else ""
        if kind in {"https", "http"}:
            self.downloader.fetch(value, path, name=name, check=check)
        elif kind == "data":
            path.write_bytes(decode_uri(value, self.limits, name))
        elif value.lower().startswith(ADDRESS):
            self.from_address(value, path, name)
        elif (data := decode_raw_base64(value, self.limits, name)) is not None:
            path.write_bytes(data)
        elif self.limits.local_files and value.startswith(("/", "./", "../")):
            return Path(value)
        elif not kind and self.bucket is not None and is_key(value):
            self.bucket.get(self.bucket.store.bucket, value, path, limits=self.limits, name=name)
        else:
            raise InputError(f"{name} is {truncated_repr(value)}; {self.forms}")
        return path

    @property
    def forms(self) -> str:
        """What is allowed, for messages."""
        return FORMS if self.bucket is None else WITH_BUCKET

    def from_address(self, value: str, path: Path, name: str) -> None:
        """An `s3://bucket/key`."""
        bucket, _, key = value[len(ADDRESS) :].partition("/")
        if self.bucket is None:
            raise InputError(f"{name} is {truncated_repr(value)}, but this server has no bucket (S3_BUCKET); {FORMS}")
        if not bucket or not is_key(key):
            raise InputError(f"{name} is {truncated_repr(value)}; s3://bucket/key is needed")
        self.bucket.get(bucket, key, path, limits=self.limits, name=name)


def make_fetcher(settings: StorageSettings) -> InputFetcher:
    """From the operator's settings."""
    bucket = None if settings.store is None else S3Bucket(settings.store)
    return InputFetcher(limits=settings.limits, bucket=bucket, downloader=Downloader(limits=settings.limits))


def is_key(text: str) -> bool:
    """Whether this can be a key: printable, and nothing that climbs out of a folder."""
    return 0 < len(text) <= MAX_KEY_BYTES and text.isprintable() and not {"", ".", ".."} & set(text.split("/"))


def decode_uri(value: str, limits: DownloadLimits, name: str) -> bytes:
    """The bytes of a data URI."""
    head, comma, body = value.partition(",")
    if not comma:
        raise InputError(f"{name} is {truncated_repr(value)}; a data URI has a comma before its data")
    if not head.lower().endswith(";base64"):
        check_size(len(body) // 3, limits, name)
        data = unquote_to_bytes(body)
    else:
        data = decode(body, limits, name)
    check_size(len(data), limits, name)
    return data


def decode_raw_base64(value: str, limits: DownloadLimits, name: str) -> bytes | None:
    """The bytes of bare base64 that hold a file of a known kind; None for any other text."""
    beginning = "".join(value[: 2 * HEAD_BYTES].split())
    if len(value) < LEAST_BASE64 or not BASE64.fullmatch(beginning):
        return None
    try:
        head = base64.b64decode(beginning[: len(beginning) // 4 * 4])
    except binascii.Error:
        return None
    if not any(head[offset:].startswith(mark) for offset, mark, _ in SIGNATURES):
        return None
    return decode(value, limits, name)


def decode(text: str, limits: DownloadLimits, name: str) -> bytes:
    """Base64 with or without line breaks."""
    check_size(len(text) * BITS // 8 - 4, limits, name)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is no base64 ({error}); complete base64 is needed") from error
