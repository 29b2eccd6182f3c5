"""Every form in which a request may name a file, and what is refused."""

import base64
from pathlib import Path

import pytest

from src.errors import InputError
from src.storage.fetcher import InputFetcher, make_fetcher
from src.storage.settings import StorageSettings, read_settings
from tests.src.storage.conftest import FORBIDDEN, READABLE
from tests.src.storage.local_s3 import BUCKET, LocalS3

DATA = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
BASE64 = base64.b64encode(DATA).decode()
BASE64_LINES = "\n".join(BASE64[start : start + 60] for start in range(0, len(BASE64), 60))
KEY_LIKE_BASE64 = "abcd/" * 16 + "x"


@pytest.fixture
def fetcher(settings: StorageSettings, s3: LocalS3) -> InputFetcher:
    for key in ("1.wav", "folder/a b.png", KEY_LIKE_BASE64):
        s3.client().put_object(Bucket=BUCKET, Key=key, Body=DATA)
    s3.client().put_object(Bucket=READABLE, Key="theirs.png", Body=DATA)
    return make_fetcher(settings)


FORMS = {
    "data URI": f"data:image/png;base64,{BASE64}",
    "data URI without a type": f"data:;base64,{BASE64}",
    "percent-encoded data URI": "data:image/png," + "".join(f"%{byte:02x}" for byte in DATA),
    "base64": BASE64,
    "base64 in lines": BASE64_LINES,
    "key": "1.wav",
    "key in a folder": "folder/a b.png",
    "key that looks like base64": KEY_LIKE_BASE64,
    "S3 URI": f"s3://{BUCKET}/1.wav",
    "S3 URI of another bucket": f"s3://{READABLE}/theirs.png",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(fetcher: InputFetcher, tmp_path: Path, form: str) -> None:
    path = fetcher.fetch(FORMS[form], tmp_path, name="first_audio")
    assert path.read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["first_audio"]


@pytest.mark.parametrize(
    "value",
    [
        *("missing.wav", "", "../secrets", "a/../../b", "/etc/passwd", "a\nb", "k" * 1025),
        *("file:///etc/passwd", "gopher://x", "http://files.test/x", "https://127.0.0.1/x"),
        *("s3://", f"s3://{BUCKET}", f"s3:{BUCKET}/1.wav", f"s3:xy{BUCKET}/1.wav", f"s3://{BUCKET}/"),
        *(f"s3://{BUCKET}/a//b", f"s3://{FORBIDDEN}/x.png"),
        *("data:image/png", "data:image/png;base64,%%%", BASE64[:-3]),
    ],
)
def test_other_values_are_refused(fetcher: InputFetcher, tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"^image"):
        fetcher.fetch(value, tmp_path, name="image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["data URI", "percent-encoded data URI", "base64", "key", "S3 URI"])
def test_the_size_is_limited_in_every_form(s3: LocalS3, fetcher: InputFetcher, tmp_path: Path, form: str) -> None:
    limited = make_fetcher(read_settings(s3.environ() | {"MAX_INPUT_MB": "0.0001"}))
    with pytest.raises(InputError, match=r"^image has .* at most 100 are allowed"):
        limited.fetch(FORMS[form], tmp_path, name="image")
    assert list(tmp_path.iterdir()) == []


def test_local_paths_only_if_the_operator_allows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    with pytest.raises(InputError, match=r"^image"):
        make_fetcher(read_settings({})).fetch(str(path), tmp_path, name="image")
    allowed = make_fetcher(read_settings({"MULTITALK_LOCAL_FILES": "1"}))
    assert allowed.fetch(str(path), tmp_path, name="image") == path
    jpeg = base64.b64encode(b"\xff\xd8\xff" + DATA).decode()
    assert jpeg.startswith("/")
    assert allowed.fetch(jpeg, tmp_path, name="image").read_bytes().endswith(DATA)


@pytest.mark.parametrize("value", ["1.wav", "s3://talks/1.wav"])
def test_keys_need_a_bucket(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"^image"):
        make_fetcher(read_settings({})).fetch(value, tmp_path, name="image")
