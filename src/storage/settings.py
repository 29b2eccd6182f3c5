"""Settings of input downloads and of the S3 bucket, from the environment."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from src.environment import Environ, first_set, read_flag, read_number

Network = IPv4Network | IPv6Network

MAX_INPUT_MB = 200.0
MAX_LORA_MB = 1500.0
"""Of a LoRA of rank 128 for the 14B model, 1,200 MB."""
LORA_FILES = "lora_files"
"""The input with a request's own LoRAs."""
MAX_DOWNLOAD_SECONDS = 120.0
URL_SECONDS = 24 * 3600.0
MAX_URL_SECONDS = 7 * 24 * 3600.0
"""The longest validity of a presigned URL with Signature Version 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """Limits on the files that requests name; `networks` may be connected to although they are not public.

    `lora_files`: whether requests may bring LoRAs, each of at most `max_lora_bytes`.
    """

    max_bytes: int = int(MAX_INPUT_MB * 1e6)
    max_lora_bytes: int = int(MAX_LORA_MB * 1e6)
    lora_files: bool = False
    max_seconds: float = MAX_DOWNLOAD_SECONDS
    allow_http: bool = False
    local_files: bool = False
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """The bucket of outputs and of inputs given as keys; requests may read `readable` buckets too, all with `*`.

    `url_seconds` is the validity of presigned URLs; keys of outputs begin with `output_prefix`.
    """

    bucket: str
    readable: frozenset[str] = frozenset()
    endpoint: str | None = None
    url_seconds: float = URL_SECONDS
    output_prefix: str = ""

    def may_read(self, bucket: str) -> bool:
        """Whether requests may name objects in this bucket."""
        return bucket == self.bucket or bool(self.readable & {bucket, "*"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Download limits, and the bucket if there is one."""

    limits: DownloadLimits
    s3: S3Config | None


def read_settings(environ: Environ) -> StorageSettings:
    """The variables that docs/deploy.md lists; ValueError for a value that one cannot have."""
    limits = DownloadLimits(
        max_bytes=int(read_number(environ, "MAX_INPUT_MB", MAX_INPUT_MB) * 1e6),
        max_lora_bytes=int(read_number(environ, "MAX_LORA_MB", MAX_LORA_MB) * 1e6),
        lora_files=read_flag(environ, "MULTITALK_LORA_FILES", default=False),
        max_seconds=read_number(environ, "MAX_DOWNLOAD_SECONDS", MAX_DOWNLOAD_SECONDS),
        allow_http=read_flag(environ, "MULTITALK_HTTP", default=False),
        local_files=read_flag(environ, "MULTITALK_LOCAL_FILES", default=False),
        networks=read_networks(environ.get("MULTITALK_NETWORKS", "")),
    )
    return StorageSettings(limits=limits, s3=read_s3_config(environ))


def read_s3_config(environ: Environ) -> S3Config | None:
    """The configured bucket, None without one."""
    bucket = first_set(environ, "AWS_BUCKET_NAME", "S3_BUCKET")
    if bucket is None:
        return None
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL", "BUCKET_ENDPOINT_URL")
    return S3Config(
        bucket=bucket,
        readable=frozenset(environ.get("S3_READABLE_BUCKETS", "").replace(",", " ").split()),
        endpoint=first_set(environ, *endpoints),
        url_seconds=read_number(environ, "S3_URL_SECONDS", URL_SECONDS, maximum=MAX_URL_SECONDS),
        output_prefix=environ.get("S3_OUTPUT_PREFIX", ""),
    )


def read_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR notation, separated by commas or blanks."""
    try:
        return tuple(ip_network(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"MULTITALK_NETWORKS is {text!r}; networks like 10.1.0.0/16 are needed ({error})") from None
