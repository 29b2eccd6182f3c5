"""The HTTP API with the backend of one machine."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from deploy.service import Service
from deploy.web.app import (
    Credentials,
    Failed,
    Finished,
    SubmitRequest,
    Working,
    make_app,
    parse_submit,
    read_credentials,
)
from deploy.web.local import Call, LocalBackend
from src.errors import InputError
from src.serving.cog.server import free_port
from src.storage.fetcher import InputFetcher, make_fetcher
from src.storage.settings import DownloadLimits, read_settings
from tests.conftest import ROOT
from tests.deploy.conftest import child_environment
from tests.deploy.runpod_worker.test_handler import decode_video, is_listening
from tests.predict.media_files import plain, voice
from tests.src.storage.faulty_server import FaultyHandler, serve
from tests.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.usefixtures("few_steps")

TOKEN_HEADER = {"Authorization": "Bearer word"}
KEY_HEADERS = {"Modal-Key": "key", "Modal-Secret": "secret"}
CREDENTIALS = Credentials(token="word", key="key", secret="secret")

URLS = {"image": "https://x/a.png", "audio1": "https://x/1.wav"}

RESPOND = threading.Event()
"""Set when the test server may answer a request for /slow."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """The URL of a web server with an image and two voices."""

    class Files(FaultyHandler):
        def image(self, _: str) -> None:
            self.answer(plain())

        def wav(self, _: str) -> None:
            self.answer(voice())

        def mp3(self, _: str) -> None:
            self.answer(voice("MP3"))

        def text(self, _: str) -> None:
            self.answer(b"a text file, not audio")

        def slow(self, _: str) -> None:
            RESPOND.wait(LIMIT_S)
            self.answer(voice())

        def long(self, _: str) -> None:
            self.answer(voice("FLAC", 20.0))

    with serve(Files) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def fetcher() -> InputFetcher:
    """Allowed to fetch from the test server."""
    return make_fetcher(read_settings({"MULTITALK_HTTP": "1", "MULTITALK_NETWORKS": "127.0.0.0/8"}))


@pytest.fixture
def backend(service: Service, fetcher: InputFetcher, tmp_path: Path) -> Iterator[LocalBackend]:
    """Closed at the end, which cancels every call and waits for it."""
    with closing(LocalBackend(replace(service, fetcher=fetcher), tmp_path, max_queued=2)) as backend:
        yield backend
        RESPOND.set()
    RESPOND.clear()


@pytest.fixture
def client(backend: LocalBackend) -> TestClient:
    return TestClient(make_app(backend, CREDENTIALS), headers=TOKEN_HEADER)


def wait_for_result(client: Any, call_id: str) -> Any:
    """The response once it is not 202."""
    responses: list[Any] = []

    def is_finished() -> bool:
        responses.append(client.get(f"/result/{call_id}"))
        return bool(responses[-1].status_code != 202)

    wait_until(is_finished)
    return responses[-1]


def submit(client: Any, files: str, **fields: Any) -> str:
    response = client.post("/submit", json={"image": f"{files}/image", "audio1": f"{files}/wav"} | fields)
    assert response.status_code == 202, response.text
    call_id: str = response.json()["call_id"]
    return call_id


def test_video_of_two_persons(client: TestClient, files: str) -> None:
    call_id = submit(client, files, audio2=f"{files}/mp3", prompt="hello")
    response = wait_for_result(client, call_id)
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    assert decode_video(response.content).frames in {20, 21}
    head = client.head(f"/result/{call_id}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(response.content))


def test_lists_reach_the_model(client: TestClient, files: str) -> None:
    for fields, words in (
        ({"person_masks": [f"{files}/image", f"{files}/image"]}, "both persons cover the same area"),
        ({"conditioning_audio": [f"{files}/mp3", f"{files}/wav"]}, "conditioning_audio has 2 files"),
        ({"loras": ["nobody"]}, "loras has 'nobody', which this server does not have"),
    ):
        assert words in wait_for_result(client, submit(client, files, **fields)).json()["detail"]


def test_lora_files_are_accepted_where_the_operator_allows_them() -> None:
    request = parse_submit(
        {**URLS, "lora_files": ["https://x/a"], "loras": ["file1:2"]}, DownloadLimits(lora_files=True)
    )
    assert (request.files["lora_files"], request.lists) == (["https://x/a"], {"loras": ["file1:2"]})
    with pytest.raises(InputError, match="lora_files has 9 files; at most 8"):
        parse_submit({**URLS, "lora_files": ["https://x/a"] * 9}, DownloadLimits(lora_files=True))


def test_failed_call_returns_500_with_the_reason(client: TestClient, files: str) -> None:
    response = wait_for_result(client, submit(client, files, audio1=f"{files}/text"))
    assert response.status_code == 500
    assert "audio1: the file" in response.json()["detail"]
    assert client.head(response.request.url.path).status_code == 500


def test_private_addresses_are_refused(service: Service, files: str, tmp_path: Path) -> None:
    with closing(LocalBackend(service, tmp_path)) as backend:
        client = TestClient(make_app(backend, CREDENTIALS), headers=TOKEN_HEADER)
        response = wait_for_result(client, submit(client, files.replace("http://", "https://")))
        assert (response.status_code, "not on the public internet" in response.text) == (500, True)


def test_running_call_can_be_cancelled(client: TestClient, backend: LocalBackend, files: str) -> None:
    call_id = submit(client, files, audio1=f"{files}/long")
    wait_until(lambda: "denoise" in client.get(f"/result/{call_id}").text)
    assert client.post(f"/cancel/{call_id}").status_code == 200
    response = client.get(f"/result/{call_id}")
    assert (response.status_code, response.json()["detail"]) == (500, "canceled")
    assert wait_for_result(client, submit(client, files)).status_code == 200
    assert len(list(backend.folder.iterdir())) == 1


def test_queue_is_bounded_and_queued_calls_can_be_cancelled(client: TestClient, files: str) -> None:
    first = submit(client, files, audio1=f"{files}/slow")
    second = submit(client, files, audio1=f"{files}/slow")
    full = client.post("/submit", json={"image": f"{files}/image", "audio1": f"{files}/wav"})
    assert full.status_code == 429
    assert "at most 2" in full.json()["detail"]
    client.post(f"/cancel/{second}")
    assert wait_for_result(client, second).json()["detail"] == "canceled"
    assert client.get(f"/result/{first}").status_code == 202


def test_unknown_result_returns_404_and_expired_result_410(
    client: TestClient, backend: LocalBackend, files: str
) -> None:
    for request in (client.get, client.head):
        assert request("/result/0123").status_code == 404
    assert client.post("/cancel/0123").status_code == 404
    call_id = submit(client, files)
    assert wait_for_result(client, call_id).status_code == 200
    backend.retention_s = 0
    for request in (client.get, client.head):
        assert request(f"/result/{call_id}").status_code == 410
    assert list(backend.folder.iterdir()) == []


def test_expired_result_is_deleted_without_a_request(service: Service, tmp_path: Path) -> None:
    video = tmp_path / "done.mp4"
    video.touch()
    with closing(LocalBackend(service, tmp_path, retention_s=0.1)) as backend:
        backend.calls["done"] = Call(state=Finished(video=video), finished_at=time.monotonic())
        wait_until(lambda: not video.exists())


def test_result_that_expires_during_the_request_returns_410(backend: LocalBackend, client: TestClient) -> None:
    backend.calls["gone"] = Call(state=Finished(video=backend.folder / "gone.mp4"), finished_at=time.monotonic())
    assert client.get("/result/gone").status_code == 410


def test_slow_host_delays_only_its_own_call(client: TestClient, files: str) -> None:
    slow = submit(client, files, audio1=f"{files}/slow")
    assert wait_for_result(client, submit(client, files)).status_code == 200
    assert client.get(f"/result/{slow}").status_code == 202
    RESPOND.set()
    assert wait_for_result(client, slow).status_code == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "image is missing"),
        ({"image": "https://x/a.png"}, "audio1 is missing"),
        ({"image": "https://x/a.png", "audio1": "1.wav"}, "audio1 is '1.wav'; a URL is needed"),
        ({"image": "/etc/passwd", "audio1": "https://x/1.wav"}, "image is '/etc/passwd'"),
        ({"image": "https://x/a.png", "audio1": "https://x/1.wav", "steps": 3}, "'steps' is not an accepted field"),
        ({"image": "https://x/a.png", "audio1": "https://x/1.wav", "prompt": 3}, "prompt is 3"),
        ({**URLS, "person_masks": "https://x/m.png"}, "person_masks is 'https://x/m.png'; a list is needed"),
        ({**URLS, "person_masks": ["https://x/m.png", "m.png"]}, "person_masks (number 2) is 'm.png'; a URL is needed"),
        ({**URLS, "person_masks": ["https://x/m.png"] * 11}, "person_masks has 11 files; at most 10 are allowed"),
        ({**URLS, "lora_files": ["https://x/a"]}, "lora_files is given, but this server takes only LoRAs"),
        ([], "not a JSON object"),
    ],
)
def test_invalid_fields_return_422(client: TestClient, fields: Any, words: str) -> None:
    response = client.post("/submit", json=fields)
    assert response.status_code == 422
    assert words in response.json()["detail"]


def test_too_long_body_returns_413(client: TestClient) -> None:
    response = client.post("/submit", content=(b"x" * 65_536 for _ in range(100)))
    assert response.status_code == 413


def test_deeply_nested_body_returns_422(client: TestClient) -> None:
    response = client.post("/submit", content=b"[" * 500_000)
    assert response.status_code == 422
    assert "not a JSON object" in response.json()["detail"]


ROUTES = [("post", "/submit"), ("get", "/result/x"), ("head", "/result/x"), ("post", "/cancel/x")]


class UnusedBackend:
    """A backend that must not be called."""

    def submit(self, request: SubmitRequest) -> str:
        raise AssertionError

    def result(self, call_id: str) -> Working | Failed:
        raise AssertionError

    def cancel(self, call_id: str) -> None:
        raise AssertionError


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("credentials", "headers", "status"),
    [
        (Credentials(), {}, 503),
        (Credentials(), {"Authorization": "Bearer "}, 503),
        (Credentials(), {"Modal-Key": "", "Modal-Secret": ""}, 503),
        (Credentials(key="key"), KEY_HEADERS, 503),
        (CREDENTIALS, {}, 401),
        (CREDENTIALS, {"Authorization": "Bearer wrong"}, 401),
        (CREDENTIALS, {"Authorization": "Basic word"}, 401),
        (CREDENTIALS, {"Authorization": "Bearer wörd".encode()}, 401),
        (CREDENTIALS, {"Modal-Key": "key"}, 401),
        (CREDENTIALS, {"Modal-Key": "key", "Modal-Secret": "wrong"}, 401),
        (Credentials(token="word"), {"Modal-Key": "", "Modal-Secret": ""}, 401),
        (Credentials(key="key", secret="secret"), {"Authorization": "Bearer "}, 401),
    ],
)
def test_requests_without_valid_credentials_are_refused(
    method: str, path: str, credentials: Credentials, headers: Any, status: int
) -> None:
    response = TestClient(make_app(UnusedBackend(), credentials)).request(method, path, headers=headers)
    assert response.status_code == status


def test_key_and_secret(backend: LocalBackend) -> None:
    assert TestClient(make_app(backend, CREDENTIALS)).get("/result/x", headers=KEY_HEADERS).status_code == 404
    assert read_credentials({"WEB_KEY": "key", "WEB_SECRET": "secret", "WEB_TOKEN": "word"}) == CREDENTIALS
    assert not read_credentials({}).configured()


def test_api_has_no_documentation_pages(client: TestClient) -> None:
    assert {client.get(path).status_code for path in ("/docs", "/openapi.json", "/redoc")} == {404}


@pytest.mark.soak
def test_command_serves_and_ends_on_sigterm(environ: dict[str, str], files: str, tmp_path: Path) -> None:
    """The same calls over HTTP. SIGTERM cancels the running one, and the log has no client addresses."""
    port = free_port()
    allowed = {"MULTITALK_HTTP": "1", "MULTITALK_NETWORKS": "127.0.0.0/8"}
    env = child_environment(environ, **allowed, WEB_TOKEN="word", PORT=str(port), TMPDIR=str(tmp_path))
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.web"], cwd=ROOT, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=TOKEN_HEADER) as client:
            assert client.get("/result/x", headers={"Authorization": "Bearer other"}).status_code == 401
            response = wait_for_result(client, submit(client, files))
            assert decode_video(response.content).frames == 10
            call_id = submit(client, files, audio1=f"{files}/long")
            wait_until(lambda: client.get(f"/result/{call_id}").json()["progress"])
    finally:
        process.terminate()
        assert process.wait() == 0
    assert list(tmp_path.glob("multitalk*")) == []
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    outcomes = [line["outcome"] for line in lines if line.get("event") == "request"]
    assert outcomes == ["succeeded", "stopped"]
    assert "INFO: " not in log.read_text(), "uvicorn writes to the log"
    assert not [line for line in lines if "/submit" in line["message"]]
