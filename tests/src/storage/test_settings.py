"""Storage settings from the environment."""

import pytest

from src.storage.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("MAX_INPUT_MB", text) for text in ("0", "-1", "nan", "inf", "much")),
        *(("MAX_DOWNLOAD_SECONDS", text) for text in ("0", "nan")),
        *(("S3_URL_SECONDS", text) for text in ("0", "700000")),
        ("MULTITALK_NETWORKS", "10.0.0.1/8"),
        ("MULTITALK_NETWORKS", "inside"),
    ],
)
def test_invalid_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is '{value}'"):
        read_settings({"S3_BUCKET": "talks", name: value})


def test_defaults() -> None:
    settings = read_settings({})
    assert settings.s3 is None
    assert not settings.limits.allow_http
    assert not settings.limits.local_files


def test_alternative_names_and_networks() -> None:
    settings = read_settings(
        {"AWS_BUCKET_NAME": "talks", "S3_ENDPOINT_URL": "http://x", "MULTITALK_NETWORKS": "10.1.0.0/16, fd00::/8"}
    )
    assert settings.s3 is not None
    assert (settings.s3.bucket, settings.s3.endpoint) == ("talks", "http://x")
    assert len(settings.limits.networks) == 2
