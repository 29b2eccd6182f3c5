"""The tar of a converted folder: choosing, downloading and verifying it."""

import hashlib
import json
import logging
from pathlib import Path

import pytest

from src.weights.converted import choose_tar, ensure_converted
from src.weights.errors import CorruptDownloadError, SpaceError, WeightsError
from src.weights.manifest import CONVERTED
from src.weights.sources import Sources
from tests.src.weights.conftest import POLICY, StandIn
from tests.src.weights.samples import list_dir, safetensors, tar, tree
from tests.src.weights.server import Answer, Server

MODEL = "tiny-model"


def converted_files(model: str = MODEL, dtype: str = "fp8") -> dict[str, bytes]:
    files = {"config.json": b"{}", "transformer-0001.safetensors": safetensors(), "google/x/tokenizer.json": b"{}"}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, CONVERTED: json.dumps({"model": model, "dtype": dtype, "sha256": hashes}).encode()}


def fetch(folder: Path, url: str, dtype: str | None = None) -> bool:
    return ensure_converted(folder, model=MODEL, dtype=dtype, sources=Sources(base_url=url), policy=POLICY)


@pytest.mark.parametrize("found_by", ["tar URL", "signed URL", "index", "name of MODEL_PATH"])
def test_tar_is_found_and_installed(server: Server, pget: StandIn, tmp_path: Path, found_by: str) -> None:
    files, name = converted_files(), "w" if found_by.startswith("name") else "mine"
    server.files[f"/{name}.tar"] = tar(files, name)
    if found_by == "index":
        server.files["/tars.json"] = json.dumps({f"{name}.tar": {"model": MODEL, "dtype": "fp8"}}).encode()
    url = server.url + {"tar URL": "/mine.tar", "signed URL": "/mine.tar?token=1"}.get(found_by, "")
    folder = tmp_path / "w"
    assert fetch(folder, url)
    assert tree(folder).keys() - {".download.lock"} == files.keys()
    assert len(pget.calls) == 1
    assert fetch(folder, "http://127.0.0.1:1/x.tar")  # complete: needs no network
    assert len(pget.calls) == 1


@pytest.mark.parametrize(("dtype", "chosen"), [(None, "b.tar"), ("bf16", "b.tar"), ("fp8", "f.tar"), ("int8", "b.tar")])
def test_choice_by_dtype(dtype: str | None, chosen: str) -> None:
    index = {
        "f.tar": {"model": MODEL, "dtype": "fp8"},
        "b.tar": {"model": MODEL, "dtype": "bf16"},
        "x.tar": {"model": "other", "dtype": "fp8"},
    }
    assert choose_tar(index, MODEL, dtype) == chosen


def test_only_tar_is_chosen_unless_another_dtype_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    index = {"f.tar": {"model": MODEL, "dtype": "fp8"}}
    assert choose_tar(index, MODEL, None) == "f.tar"
    with caplog.at_level(logging.WARNING):
        assert choose_tar(index, MODEL, "int8") is None
        assert choose_tar(index, "other", None) is None
    assert "no tar of tiny-model in int8; there are f.tar (tiny-model, fp8)" in caplog.text


def test_server_without_the_tar(server: Server, pget: StandIn, tmp_path: Path) -> None:
    assert not fetch(tmp_path / "w", server.url)
    assert not fetch(tmp_path / "w", "http://127.0.0.1:1")  # the hub may be reachable
    with pytest.raises(WeightsError, match=r"there is no .*/gone\.tar"):
        fetch(tmp_path / "w", server.url + "/gone.tar")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("fault", ["changed byte", "missing file", "other model", "no description", "path outside"])
def test_corrupt_tar_is_refused(server: Server, pget: StandIn, tmp_path: Path, fault: str) -> None:
    files = converted_files("other" if fault == "other model" else MODEL)
    name = "transformer-0001.safetensors"
    if fault == "changed byte":
        files[name] = safetensors(seed=9)
    elif fault == "missing file":
        del files[name]
    elif fault == "no description":
        del files[CONVERTED]
    elif fault == "path outside":
        files[CONVERTED] = json.dumps({"model": MODEL, "dtype": "fp8", "sha256": {"../x": "0"}}).encode()
    server.files["/mine.tar"] = tar(files, "mine")
    words = {
        "changed byte": "has SHA-256",
        "missing file": "missing",
        "other model": "holds the weights of other, not of tiny-model",
        "no description": r"contains no converted\.json",
        "path outside": "paths outside the folder",
    }
    with pytest.raises(CorruptDownloadError, match=rf"/mine\.tar .*{words[fault]}"):
        fetch(tmp_path / "w", server.url + "/mine.tar")
    assert list_dir(tmp_path / "w") == []


def test_space_is_checked_by_the_size_of_the_tar(
    server: Server, pget: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/mine.tar"] = tar(converted_files(), "mine")
    needed: list[int] = []

    def refuse(folder: Path, num_bytes: int, what: str) -> None:
        needed.append(num_bytes)
        raise SpaceError("too small")

    monkeypatch.setattr("src.weights.converted.require_space", refuse)
    with pytest.raises(SpaceError):
        fetch(tmp_path / "w", server.url + "/mine.tar")
    assert needed == [2 * len(server.files["/mine.tar"])]
    assert not pget.calls


def test_damaged_folder_is_fetched_again(server: Server, pget: StandIn, tmp_path: Path) -> None:
    files = converted_files()
    server.files["/mine.tar"] = tar(files, "mine")
    folder = tmp_path / "w"
    assert fetch(folder, server.url + "/mine.tar")
    path = folder / "transformer-0001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"missing or broken files .*transformer-0001"):
        ensure_converted(folder, model=MODEL, dtype=None, sources=Sources(names=()), policy=POLICY)
    assert fetch(folder, server.url + "/mine.tar")
    assert path.read_bytes() == files[path.name]


def test_pget_is_needed(server: Server, no_pget: None, tmp_path: Path) -> None:
    server.files["/mine.tar"] = tar(converted_files(), "mine")
    with pytest.raises(WeightsError, match="needs pget, which is not on PATH"):
        fetch(tmp_path / "w", server.url + "/mine.tar")


def test_server_error_of_a_named_tar_is_reported(server: Server, pget: StandIn, tmp_path: Path) -> None:
    server.answer = lambda request: Answer(status=500)
    with pytest.raises(WeightsError, match=r"mine\.tar cannot be read: .*500"):
        fetch(tmp_path / "w", server.url + "/mine.tar")
