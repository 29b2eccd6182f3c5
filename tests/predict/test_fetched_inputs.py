"""File inputs by URL: fetched by the predictor within the operator's limits, and never left behind."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from app.settings import BUILT_IN_MODELS
from tests.predict.conftest import MODEL, Service, good, serving
from tests.predict.media_files import plain, uri, voice
from tests.predict.test_examples import LINES, OWN_LORA, run
from tests.src.storage.faulty_server import FaultyHandler, serve

LORA = BUILT_IN_MODELS / MODEL / "loras" / "distilled.safetensors"
HUGE = save({"head.head.diff_b": torch.full((64,), 1e30)})


class Files(FaultyHandler):
    """The files of a good request as well."""

    def image(self, _: str) -> None:
        self.answer(plain())

    def voice(self, _: str) -> None:
        self.answer(voice())

    def lora(self, _: str) -> None:
        self.answer(LORA.read_bytes())


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    with serve(Files) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def open_service(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server whose operator allows http, this machine's files and 50 kB."""
    settings = {"MULTITALK_HTTP": "1", "MULTITALK_NETWORKS": "127.0.0.0/8", "MAX_INPUT_MB": "0.5"}
    settings |= {"MULTITALK_LORA_FILES": "1", "MAX_LORA_MB": f"{LORA.stat().st_size / 1e6}"}
    with serving(trained_folder, tmp_path_factory.mktemp("scratch"), **settings) as running:
        yield running


def left_files(service: Service) -> list[str]:
    """Files that no request needs any more: all but one video."""
    return sorted(path.name for path in service.scratch.rglob("*") if path.is_file() and path.name != "output.mp4")


def test_a_private_address_is_refused(service: Service, files: str) -> None:
    before = Files.requests.total()
    for url, words in (
        (f"{files}/image", "only https is allowed"),
        ("https://127.0.0.1/a", "not on the public internet"),
    ):
        answer = service.server.predict(good() | {"image": url})
        assert answer["status"] == "failed"
        assert answer["error"].startswith("image")
        assert words in answer["error"]
    assert Files.requests.total() == before
    assert left_files(service) == []


def test_url_inputs_give_the_same_video_as_data(service: Service, open_service: Service, files: str) -> None:
    by_url = open_service.succeed(image=f"{files}/image", first_audio=f"{files}/redirect?/voice")
    assert by_url["output"] == open_service.succeed()["output"]
    assert left_files(open_service) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", ["first_audio", "HTTP 404"]),
        ("truncated", ["first_audio", "cannot be fetched"]),
        ("endless", ["first_audio", "500,000", "MAX_INPUT_MB"]),
        ("huge-length", ["first_audio", "500,000", "MAX_INPUT_MB"]),
        ("compressed", ["first_audio", "gzip"]),
    ],
)
def test_a_file_that_cannot_be_fetched_leaves_none_of_the_others(
    open_service: Service, files: str, path: str, words: list[str]
) -> None:
    answer = open_service.server.predict(good() | {"image": f"{files}/image", "first_audio": f"{files}/{path}"})
    assert answer["status"] == "failed"
    assert all(word in answer["error"] for word in words), answer["error"]
    assert "127.0.0.1" not in answer["error"].replace(files, "")
    assert left_files(open_service) == []


@pytest.mark.parametrize("path", ["slow-body", "slow-headers", "silent"])
def test_a_cancel_does_not_wait_for_a_download(open_service: Service, files: str, path: str) -> None:
    """The server sends for ten seconds, or nothing for five; counted is what it had sent when the answer came."""
    Files.third_drip.clear()
    asked, sent = Files.requests[f"/{path}"], Files.drips_sent[f"/{path}"]
    answers: list[dict[str, Any]] = []
    inputs = good() | {"image": f"{files}/image", "first_audio": f"{files}/{path}"}
    waiting = threading.Thread(
        target=lambda: answers.append(open_service.server.predict(inputs, prediction_id=f"cancelled-{path}"))
    )
    waiting.start()
    open_service.wait_until(lambda: Files.requests[f"/{path}"] > asked, "the download")
    open_service.server.cancel(f"cancelled-{path}")
    waiting.join()
    assert answers[0]["status"] == "canceled"
    assert Files.drips_sent[f"/{path}"] - sent < 150
    assert open_service.succeed()["status"] == "succeeded"
    open_service.wait_until(lambda: left_files(open_service) == [], "the end of the files")


def test_too_many_files_are_refused_before_any_is_fetched(open_service: Service, files: str) -> None:
    before = Files.requests.total()
    answer = open_service.server.predict(good() | {"person_masks": [f"{files}/image"] * 11})
    assert answer["error"].startswith("person_masks has 11 files; at most 10 are allowed")
    assert Files.requests.total() == before


def test_own_loras_give_the_video_of_installed_ones_and_are_gone_afterwards(open_service: Service, files: str) -> None:
    plain = open_service.succeed()["output"]
    installed = open_service.succeed(loras=["distilled:0.5"])["output"]
    assert installed != plain
    by_url = open_service.succeed(lora_files=[f"{files}/lora"], loras=["file1:0.5"])
    assert by_url["output"] == installed
    by_data = open_service.succeed(lora_files=[uri(LORA.read_bytes())], loras=["file1:0.5"])
    assert by_data["output"] == installed
    assert open_service.succeed(lora_files=[])["output"] == plain
    assert left_files(open_service) == []


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(OWN_LORA)])
@pytest.mark.usefixtures("short_examples")
def test_example_with_an_own_lora(open_service: Service, line: str) -> None:
    run(open_service, line)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (HUGE[:50], "lora_files (file1) cannot be read as a safetensors file"),
        (b"<!DOCTYPE html>", "looks like a web page"),
        (HUGE, "NaN or Inf with these LoRAs"),
        (bytes(LORA.stat().st_size + 9), "lora_files-1 has"),
        (b"", "is empty"),
    ],
)
def test_a_bad_lora_fails_its_request_only(open_service: Service, value: bytes, words: str) -> None:
    answer = open_service.server.predict(good() | {"lora_files": [uri(value)]})
    assert answer["status"] == "failed"
    assert words in answer["error"]
    assert open_service.server.health()["status"] == "READY"
    assert open_service.succeed()["status"] == "succeeded"
    assert left_files(open_service) == []


def test_own_loras_are_refused_before_anything_is_fetched(service: Service, files: str) -> None:
    before = Files.requests.total()
    answer = service.server.predict(good() | {"lora_files": [f"{files}/lora"]})
    assert answer["error"].startswith("lora_files is given, but this server takes only LoRAs that the operator has")
    assert Files.requests.total() == before


def test_a_malformed_data_uri_is_named(service: Service) -> None:
    body = json.dumps({"input": good() | {"first_audio": "data:audio/wav;base64,@@@@"}}).encode()
    status, answer = service.post(body)
    assert status == 200
    assert answer["error"].startswith("first_audio is not valid base64")
    assert left_files(service) == []
