"""Every form in which a request names a file, and what is none."""

import base64
from pathlib import Path

import pytest

from src.errors import InputError
from src.storage.fetcher import InputFetcher, make_fetcher
from src.storage.settings import StorageSettings, read_settings
from tests.src.storage.conftest import CLOSED, OTHER
from tests.src.storage.store import BUCKET, LocalStore

DATA = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
BASE64 = base64.b64encode(DATA).decode()
BROKEN = "\n".join(BASE64[start : start + 60] for start in range(0, len(BASE64), 60))
KEY_LIKE_BASE64 = "abcd/" * 16


@pytest.fixture
def inputs(settings: StorageSettings, store: LocalStore) -> InputFetcher:
    for key in ("1.wav", "folder/a b.png", KEY_LIKE_BASE64 + "x"):
        store.client().put_object(Bucket=BUCKET, Key=key, Body=DATA)
    store.client().put_object(Bucket=OTHER, Key="theirs.png", Body=DATA)
    return make_fetcher(settings)


FORMS = {
    "data URI": f"data:image/png;base64,{BASE64}",
    "data URI without a type": f"data:;base64,{BASE64}",
    "data URI in percents": "data:image/png," + "".join(f"%{byte:02x}" for byte in DATA),
    "base64": BASE64,
    "base64 in lines": BROKEN,
    "key": "1.wav",
    "key in a folder": "folder/a b.png",
    "key that looks like base64": KEY_LIKE_BASE64 + "x",
    "address": f"s3://{BUCKET}/1.wav",
    "address in another bucket": f"s3://{OTHER}/theirs.png",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(inputs: InputFetcher, tmp_path: Path, form: str) -> None:
    path = inputs.fetch(FORMS[form], tmp_path, name="first_audio")
    assert path.read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["first_audio"]


NO_FORMS = {
    "missing.wav": "there is no 'missing.wav' in the bucket",
    "": "an https URL",
    "../secrets": "an https URL",
    "a/../../b": "an https URL",
    "/etc/passwd": "an https URL",
    "file:///etc/passwd": "an https URL",
    "gopher://x": "an https URL",
    "a\nb": "an https URL",
    "k" * 1025: r"\(1,025 characters\)",
    "s3://": "s3://bucket/key is needed",
    f"s3://{BUCKET}": "s3://bucket/key is needed",
    f"s3:{BUCKET}/1.wav": "an https URL",
    f"s3:xy{BUCKET}/1.wav": "an https URL",
    f"s3://{BUCKET}/": "s3://bucket/key is needed",
    f"s3://{BUCKET}/a//b": "s3://bucket/key is needed",
    f"s3://{CLOSED}/x.png": "allowed is 'talks'",
    "data:image/png": "a comma",
    "data:image/png;base64,%%%": "no base64",
    BASE64[:-3]: "no base64",
    "http://files.test/x": "only https is allowed",
    "https://127.0.0.1/x": "not on the public internet",
}


@pytest.mark.parametrize("text", NO_FORMS)
def test_what_is_refused(inputs: InputFetcher, tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=f"^image.*{NO_FORMS[text]}"):
        inputs.fetch(text, tmp_path, name="image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["data URI", "data URI in percents", "base64", "key", "address"])
def test_size_is_bounded_in_every_form(store: LocalStore, inputs: InputFetcher, tmp_path: Path, form: str) -> None:
    small = make_fetcher(read_settings(store.environ() | {"MAX_INPUT_MB": "0.0001"}))
    with pytest.raises(InputError, match=r"^image has .* at most 100 are allowed .*MAX_INPUT_MB"):
        small.fetch(FORMS[form], tmp_path, name="image")
    assert list(tmp_path.iterdir()) == []


def test_local_paths_only_where_the_operator_allows(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    with pytest.raises(InputError, match="an https URL, a data URI or base64 is needed"):
        make_fetcher(read_settings({})).fetch(str(path), tmp_path, name="image")
    allowed = make_fetcher(read_settings({"MULTITALK_LOCAL_FILES": "1"}))
    assert allowed.fetch(str(path), tmp_path, name="image") == path
    jpeg = base64.b64encode(b"\xff\xd8\xff" + DATA).decode()
    assert jpeg.startswith("/")
    assert allowed.fetch(jpeg, tmp_path, name="image").read_bytes().endswith(DATA)


def test_without_a_bucket_there_are_no_keys(tmp_path: Path) -> None:
    inputs = make_fetcher(read_settings({}))
    with pytest.raises(InputError, match="an https URL, a data URI or base64 is needed"):
        inputs.fetch("1.wav", tmp_path, name="image")
    with pytest.raises(InputError, match="has no bucket"):
        inputs.fetch("s3://talks/1.wav", tmp_path, name="image")


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
def test_settings_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        read_settings({"S3_BUCKET": "talks", name: value})


def test_settings() -> None:
    settings = read_settings(
        {"AWS_BUCKET_NAME": "talks", "S3_ENDPOINT_URL": "http://x", "MULTITALK_NETWORKS": "10.1.0.0/16, fd00::/8"}
    )
    assert settings.store is not None
    assert (settings.store.bucket, settings.store.endpoint) == ("talks", "http://x")
    assert len(settings.limits.networks) == 2
    assert not settings.limits.http
    assert read_settings({}).store is None
