"""The web form with the backend of this machine."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from deploy.service import Service
from deploy.web.app import Credentials, Failed, Finished, SubmitRequest, Working, make_app, read_credentials
from deploy.web.local import Call, LocalBackend
from src.serving.cog.server import free_port
from src.storage.fetcher import InputFetcher, make_fetcher
from src.storage.settings import read_settings
from tests.conftest import ROOT
from tests.deploy.conftest import child_environment
from tests.deploy.runpod_worker.test_handler import listening, unpacked
from tests.predict.media_files import plain, voice
from tests.src.storage.web import Web, serving

TOKEN = {"Authorization": "Bearer word"}
PAIR = {"Modal-Key": "key", "Modal-Secret": "secret"}
KEYS = Credentials(token="word", key="key", secret="secret")


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """The URL of a web server with a picture and two voices."""

    class Files(Web):
        def picture(self, _: str) -> None:
            self.answer(plain())

        def wav(self, _: str) -> None:
            self.answer(voice())

        def mp3(self, _: str) -> None:
            self.answer(voice("MP3"))

        def letter(self, _: str) -> None:
            self.answer(b"no sound at all, but a letter")

        def long(self, _: str) -> None:
            self.answer(voice("FLAC", 20.0))

    Files.asked, Files.hosts = Counter(), []
    with serving(Files) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def inputs() -> InputFetcher:
    return make_fetcher(read_settings({"MULTITALK_HTTP": "1", "MULTITALK_NETWORKS": "127.0.0.0/8"}))


@pytest.fixture
def backend(service: Service, inputs: InputFetcher, tmp_path: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend(Service(engine=service.engine, inputs=inputs), tmp_path, most_waiting=2)
    yield backend
    backend.close()


@pytest.fixture
def client(backend: LocalBackend) -> TestClient:
    return TestClient(make_app(backend, KEYS), headers=TOKEN)


def settled(client: Any, call_id: str, seconds: float = 60.0) -> Any:
    """The answer once it is not 202."""
    deadline = time.monotonic() + seconds
    while (answer := client.get(f"/result/{call_id}")).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def submitted(client: Any, files: str, **fields: Any) -> str:
    answer = client.post("/submit", json={"image": f"{files}/picture", "audio1": f"{files}/wav"} | fields)
    assert answer.status_code == 202, answer.text
    call_id: str = answer.json()["call_id"]
    return call_id


@pytest.fixture(autouse=True)
def brief(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form has no field for steps; without this a test would take the default of 40."""
    check = service.engine.check
    monkeypatch.setattr(service.engine, "check", lambda inputs: check({"sampling_steps": 2, **inputs}))


def test_a_video_for_two(client: TestClient, files: str) -> None:
    call_id = submitted(client, files, audio2=f"{files}/mp3", prompt="hello")
    assert client.get(f"/result/{call_id}").status_code == 202
    answer = settled(client, call_id)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    assert unpacked(answer.content).frames in {20, 21}
    head = client.head(f"/result/{call_id}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))


def test_a_failure_is_told(client: TestClient, files: str) -> None:
    answer = settled(client, submitted(client, files, audio1=f"{files}/letter"))
    assert answer.status_code == 500
    assert "audio1: the file" in answer.json()["detail"]
    assert client.head(answer.request.url.path).status_code == 500


def test_an_address_inside_is_refused(service: Service, files: str, tmp_path: Path) -> None:
    guarded = LocalBackend(service, tmp_path)
    strict = TestClient(make_app(guarded, KEYS), headers=TOKEN)
    answer = settled(strict, submitted(strict, files.replace("http://", "https://")))
    assert (answer.status_code, "not on the public internet" in answer.text) == (500, True)
    guarded.close()


def test_cancelling_stops_the_work(client: TestClient, backend: LocalBackend, files: str) -> None:
    call_id = submitted(client, files, audio1=f"{files}/long")
    while "denoise" not in client.get(f"/result/{call_id}").text:
        time.sleep(0.01)
    assert client.post(f"/cancel/{call_id}").status_code == 200
    answer = client.get(f"/result/{call_id}")
    assert (answer.status_code, answer.json()["detail"]) == (500, "canceled")
    started = time.monotonic()
    assert settled(client, submitted(client, files)).status_code == 200
    assert time.monotonic() - started < 10
    assert len(list(backend.folder.iterdir())) == 1


def test_a_call_that_waits_is_cancelled_and_the_queue_is_bounded(client: TestClient, files: str) -> None:
    first = submitted(client, files, audio1=f"{files}/long")
    second = submitted(client, files)
    full = client.post("/submit", json={"image": f"{files}/picture", "audio1": f"{files}/wav"})
    assert full.status_code == 429
    assert "at most 2" in full.json()["detail"]
    client.post(f"/cancel/{second}")
    client.post(f"/cancel/{first}")
    assert settled(client, second).json()["detail"] == "canceled"


def test_unknown_and_expired(client: TestClient, backend: LocalBackend, files: str) -> None:
    for ask in (client.get, client.head):
        assert ask("/result/0123").status_code == 404
    assert client.post("/cancel/0123").status_code == 404
    call_id = submitted(client, files)
    assert settled(client, call_id).status_code == 200
    backend.keep_s = 0
    for ask in (client.get, client.head):
        assert ask(f"/result/{call_id}").status_code == 410
    assert list(backend.folder.iterdir()) == []


def test_a_result_that_nobody_asks_for_is_thrown_away_too(
    service: Service, inputs: InputFetcher, tmp_path: Path
) -> None:
    brief = LocalBackend(Service(engine=service.engine, inputs=inputs), tmp_path, keep_s=0.1)
    (tmp_path / "done.mp4").touch()
    brief.calls["done"] = Call(state=Finished(video=tmp_path / "done.mp4"), settled=time.monotonic())
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    brief.close()


def test_a_result_that_expires_while_it_is_asked_for(backend: LocalBackend, client: TestClient) -> None:
    backend.calls["gone"] = Call(state=Finished(video=backend.folder / "gone.mp4"), settled=time.monotonic())
    assert client.get("/result/gone").status_code == 410


def test_a_slow_host_holds_up_nobody_else(client: TestClient, files: str) -> None:
    slow = submitted(client, files, audio1=f"{files}/silent")
    assert settled(client, submitted(client, files)).status_code == 200
    assert client.get(f"/result/{slow}").status_code == 202
    client.post(f"/cancel/{slow}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "image is missing"),
        ({"image": "https://x/a.png"}, "audio1 is missing"),
        ({"image": "https://x/a.png", "audio1": "1.wav"}, "audio1 is '1.wav'; a URL is needed"),
        ({"image": "/etc/passwd", "audio1": "https://x/1.wav"}, "image is '/etc/passwd'"),
        ({"image": "https://x/a.png", "audio1": "https://x/1.wav", "steps": 3}, "'steps' is an unknown field"),
        ({"image": "https://x/a.png", "audio1": "https://x/1.wav", "prompt": 3}, "prompt is 3"),
        ([], "no JSON object"),
    ],
)
def test_fields_that_are_refused(client: TestClient, fields: Any, words: str) -> None:
    answer = client.post("/submit", json=fields)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_body_without_end(client: TestClient) -> None:
    answer = client.post("/submit", content=(b"x" * 65_536 for _ in range(100)))
    assert answer.status_code == 413


def test_a_body_of_brackets(client: TestClient) -> None:
    answer = client.post("/submit", content=b"[" * 500_000)
    assert answer.status_code == 422
    assert "no JSON object" in answer.json()["detail"]


ROUTES = [("post", "/submit"), ("get", "/result/x"), ("head", "/result/x"), ("post", "/cancel/x")]


class Nobody:
    """A backend that must not be asked."""

    def submit(self, talk: SubmitRequest) -> str:
        raise AssertionError

    def result(self, call_id: str) -> Working | Failed:
        raise AssertionError

    def cancel(self, call_id: str) -> None:
        raise AssertionError


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("keys", "headers", "status"),
    [
        (Credentials(), {}, 503),
        (Credentials(), {"Authorization": "Bearer "}, 503),
        (Credentials(), {"Modal-Key": "", "Modal-Secret": ""}, 503),
        (Credentials(key="key"), PAIR, 503),
        (KEYS, {}, 401),
        (KEYS, {"Authorization": "Bearer wrong"}, 401),
        (KEYS, {"Authorization": "Basic word"}, 401),
        (KEYS, {"Authorization": "Bearer wörd".encode()}, 401),
        (KEYS, {"Modal-Key": "key"}, 401),
        (KEYS, {"Modal-Key": "key", "Modal-Secret": "wrong"}, 401),
        (Credentials(token="word"), {"Modal-Key": "", "Modal-Secret": ""}, 401),
        (Credentials(key="key", secret="secret"), {"Authorization": "Bearer "}, 401),
    ],
)
def test_strangers_are_not_let_in(method: str, path: str, keys: Credentials, headers: Any, status: int) -> None:
    answer = TestClient(make_app(Nobody(), keys)).request(method, path, headers=headers)
    assert answer.status_code == status


def test_a_key_and_its_secret(backend: LocalBackend) -> None:
    assert TestClient(make_app(backend, KEYS)).get("/result/x", headers=PAIR).status_code == 404
    assert read_credentials({"WEB_KEY": "key", "WEB_SECRET": "secret", "WEB_TOKEN": "word"}) == KEYS
    assert not read_credentials({}).configured()


def test_there_is_no_page_that_tells_about_the_interface(client: TestClient) -> None:
    assert {client.get(path).status_code for path in ("/docs", "/openapi.json", "/redoc")} == {404}


@pytest.mark.soak
def test_the_command(environ: dict[str, str], files: str, tmp_path: Path) -> None:
    """As an operator starts it; the same call over the wire. It ends in order, and its log tells of no address."""
    port = free_port()
    allowed = {"MULTITALK_HTTP": "1", "MULTITALK_NETWORKS": "127.0.0.0/8"}
    env = child_environment(environ, **allowed, WEB_TOKEN="word", PORT=str(port), TMPDIR=str(tmp_path))
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.web.local"], cwd=ROOT, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 120
        while not listening(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=TOKEN) as client:
            assert client.get("/result/x", headers={"Authorization": "Bearer other"}).status_code == 401
            answer = settled(client, submitted(client, files), 300)
            assert unpacked(answer.content).frames == 10
            submitted(client, files, audio1=f"{files}/long")
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert list(tmp_path.glob("multitalk*")) == []
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    outcomes = [line["outcome"] for line in lines if line.get("event") == "request"]
    assert outcomes == ["succeeded", "stopped"]
    assert "INFO: " not in log.read_text(), "uvicorn writes beside our log"
    assert not [line for line in lines if "/submit" in line["message"]]
