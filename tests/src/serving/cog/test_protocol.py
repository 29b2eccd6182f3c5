"""What Cog's server does around a predictor, as docs/deploy.md says: a new release of Cog may change it."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.server import Server
from tests.src.serving.cog.conftest import PREDICTOR
from tests.src.serving.cog.hooks import Hooks, hooks
from tests.src.storage.faulty_server import FILE, FaultyHandler, fresh_handler, serve

SMALL = "data:audio/wav;base64,YWJj"
HEALTH = """    def healthcheck(self) -> bool:
        return not LocalPath("ill").exists()

    def predict("""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny predictor, which is ill while there is a file of that name."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "predict.py").write_text(PREDICTOR.replace("    def predict(", HEALTH, 1))
    (folder / "neighbour.py").write_text('NAME = "x"\n')
    return folder


@pytest.fixture(scope="module")
def receiver() -> Iterator[Hooks]:
    with hooks() as received:
        yield received


@pytest.fixture(scope="module")
def server(folder: Path, receiver: Hooks) -> Iterator[Server]:
    with Server(folder, setup_timeout=30, arguments=["--upload-url", f"{receiver.url}/results/"]) as running:
        yield running


@pytest.fixture
def received(receiver: Hooks) -> Hooks:
    receiver.told.clear()
    receiver.uploads.clear()
    return receiver


@pytest.fixture
def web() -> Iterator[tuple[str, type[FaultyHandler]]]:
    handler = fresh_handler()
    with serve(handler) as port:
        yield f"http://127.0.0.1:{port}", handler


def ask(
    server: Server, inputs: dict[str, Any], path: str = "", *, later: bool = False, **fields: Any
) -> tuple[int, Any]:
    """POST, or PUT where a path names the prediction."""
    headers = {"Prefer": "respond-async"} if later else {}
    body = json.dumps({"input": {"picture": SMALL} | inputs, **fields}).encode()
    return server.request("PUT" if path else "POST", f"/predictions{path}", body, headers=headers)


def test_respond_async_and_webhooks(server: Server, received: Hooks) -> None:
    events = ["start", "completed"]
    status, answer = ask(
        server, {"steps": 5}, later=True, id="mine", webhook=received.url, webhook_events_filter=events
    )
    assert (status, answer) == (202, {"id": "mine", "status": "starting"})
    last = received.wait_for("succeeded")
    assert received.statuses() == ["processing", "succeeded"]
    assert last["id"] == "mine"
    assert last["output"] == f"{received.url}/results/answer.bin"
    assert last["metrics"]["size"] == 3
    assert "step 4" in last["logs"]


def test_a_failure_is_told_to_the_webhook(server: Server, received: Hooks) -> None:
    ask(server, {"note": "fail"}, later=True, webhook=received.url)
    assert "note: 'fail' is not allowed" in received.wait_for("failed")["error"]


def test_the_same_put_begins_once(server: Server, received: Hooks) -> None:
    statuses = [ask(server, {"steps": 15}, "/once", later=True, webhook=received.url) for _ in range(3)]
    assert [status for status, _ in statuses] == [202, 202, 202]
    assert all(answer["id"] == "once" for _, answer in statuses)
    assert ask(server, {}, "/another")[0] == 409
    last = received.wait_for("succeeded")
    assert last["logs"].count("step 0\n") == 1
    time.sleep(0.3)
    assert received.statuses().count("succeeded") == 1


def test_a_put_that_names_another_id_is_refused(server: Server) -> None:
    assert ask(server, {}, "/one", id="two")[0] == 422


def test_cancelling_an_async_prediction(server: Server, received: Hooks) -> None:
    ask(server, {"steps": 1000}, "/long", later=True, webhook=received.url)
    received.wait_for("processing")
    started = time.monotonic()
    server.cancel("long")
    received.wait_for("canceled")
    assert time.monotonic() - started < 2
    assert server.request("POST", "/predictions/nobody/cancel")[0] == 404


def test_results_go_to_the_upload_url(server: Server, received: Hooks) -> None:
    status, answer = ask(server, {}, "/uploaded")
    assert (status, answer["output"]) == (200, f"{received.url}/results/answer.bin")
    ((path, headers, data),) = received.uploads
    assert (path, data) == ("/results/answer.bin", b"cba")
    assert headers["x-prediction-id"] == "uploaded"


def test_health_states(folder: Path, server: Server) -> None:
    assert server.health()["status"] == "READY"
    (folder / "ill").touch()
    try:
        ill = server.health()
        assert ill["status"] == "UNHEALTHY"
        assert "returned False" in ill["user_healthcheck_error"]
        assert ask(server, {})[0] == 200, "Cog only tells; taking the server out of service is up to who asks"
    finally:
        (folder / "ill").unlink()
    assert server.health()["status"] == "READY"
    ask(server, {"steps": 10}, later=True)
    assert server.health()["status"] == "BUSY"
    while server.health()["status"] == "BUSY":
        time.sleep(0.02)


def test_cogs_server_fetches_urls_unguarded(server: Server, web: tuple[str, type[FaultyHandler]]) -> None:
    """Why docs/deploy.md asks for an egress rule: loopback is fetched, redirects are followed, http is good enough."""
    url, handler = web
    status, answer = ask(server, {"picture": f"{url}/redirect?/file"})
    assert (status, answer["status"]) == (200, "succeeded")
    assert answer["metrics"]["size"] == len(FILE)
    assert handler.requests == {"/redirect": 1, "/file": 1}


@pytest.mark.parametrize(
    ("path", "words"),
    [("missing", "404 Client Error"), ("busy-once", "503 Server Error"), ("truncated", "IncompleteRead")],
)
def test_a_url_that_cannot_be_fetched_fails_at_once(
    server: Server, web: tuple[str, type[FaultyHandler]], path: str, words: str
) -> None:
    _, answer = ask(server, {"picture": f"{web[0]}/{path}"})
    assert answer["status"] == "failed"
    assert words in answer["error"]
    assert web[1].requests[f"/{path}"] == 1


def test_sigterm_waits_for_an_answer_that_somebody_waits_for(folder: Path) -> None:
    answers: list[tuple[int, Any]] = []
    with Server(folder, setup_timeout=30) as server:
        asking = threading.Thread(target=lambda: answers.append(ask(server, {"steps": 30})))
        asking.start()
        wait_for_step(server)
        server.process.send_signal(signal.SIGTERM)
        asking.join(10)
        assert answers[0][1]["status"] == "succeeded"
        assert server.process.wait(10) == 0


def test_sigterm_drops_what_nobody_waits_for(folder: Path, received: Hooks) -> None:
    with Server(folder, setup_timeout=30) as server:
        ask(server, {"steps": 500}, later=True, webhook=received.url)
        wait_for_step(server)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 3
    assert received.statuses() == ["processing"]


def wait_for_step(server: Server) -> None:
    """Return once the prediction is under way."""
    deadline = time.monotonic() + 10
    while not any("step 1" in line for line in server.logs):
        assert time.monotonic() < deadline
        time.sleep(0.01)
