"""What the operator allows and has: limits for strangers' files, and a bucket. From the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

MAX_INPUT_MB = 200.0
MAX_DOWNLOAD_SECONDS = 120.0
URL_SECONDS = 24 * 3600.0
MAX_URL_SECONDS = 7 * 24 * 3600.0
"""S3 signs for a week at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """For files that a request names. `networks` may be reached although they are not public."""

    max_bytes: int = int(MAX_INPUT_MB * 1e6)
    max_seconds: float = MAX_DOWNLOAD_SECONDS
    http: bool = False
    local_files: bool = False
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """The bucket for results and for inputs that are keys; `readable` are others that requests may read, `*` all."""

    bucket: str
    readable: frozenset[str] = frozenset()
    endpoint: str | None = None
    url_seconds: float = URL_SECONDS
    output_prefix: str = ""

    def may_read(self, bucket: str) -> bool:
        """Whether a request may name this bucket."""
        return bucket == self.bucket or bool(self.readable & {bucket, "*"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Both; without a store there is no S3."""

    limits: DownloadLimits
    store: S3Config | None


def read_settings(environ: Mapping[str, str]) -> StorageSettings:
    """The variables that docs/deploy.md lists; ValueError for a value they cannot have."""
    limits = DownloadLimits(
        max_bytes=int(number(environ, "MAX_INPUT_MB", MAX_INPUT_MB) * 1e6),
        max_seconds=number(environ, "MAX_DOWNLOAD_SECONDS", MAX_DOWNLOAD_SECONDS),
        http=environ.get("MULTITALK_HTTP") == "1",
        local_files=environ.get("MULTITALK_LOCAL_FILES") == "1",
        networks=read_networks(environ.get("MULTITALK_NETWORKS", "")),
    )
    bucket = environ.get("AWS_BUCKET_NAME") or environ.get("S3_BUCKET")
    if not bucket:
        return StorageSettings(limits=limits, store=None)
    store = S3Config(
        bucket=bucket,
        readable=frozenset(environ.get("S3_READABLE_BUCKETS", "").replace(",", " ").split()),
        endpoint=first(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL", "BUCKET_ENDPOINT_URL"),
        url_seconds=number(environ, "S3_URL_SECONDS", URL_SECONDS, most=MAX_URL_SECONDS),
        output_prefix=environ.get("S3_OUTPUT_PREFIX", ""),
    )
    return StorageSettings(limits=limits, store=store)


def first(environ: Mapping[str, str], *names: str) -> str | None:
    """The first of these variables that is set to something."""
    return next((environ[name] for name in names if environ.get(name)), None)


def number(environ: Mapping[str, str], name: str, default: float, most: float = math.inf) -> float:
    """A finite positive number from a variable; ValueError that names it."""
    text = environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf or value > most:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{name} is {text!r}; a number above 0{limit} is needed")
    return value


def read_networks(text: str) -> tuple[Network, ...]:
    """Networks in the form 10.0.0.0/8, separated by commas or blanks."""
    try:
        return tuple(ip_network(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"MULTITALK_NETWORKS is {text!r}; networks like 10.1.0.0/16 are needed ({error})") from None
