"""What Cog's server does around a predictor, as docs/deploy.md describes it; a new release of Cog may change it."""

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
from tests.src.serving.cog.webhook_receiver import WAIT_TIMEOUT_S, WebhookReceiver, receive_webhooks
from tests.src.storage.faulty_server import FILE, FaultyHandler, fresh_handler, serve

SMALL = "data:audio/wav;base64,YWJj"
HEALTHCHECK = """    def healthcheck(self) -> bool:
        return not LocalPath("ill").exists()

    def predict("""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small predictor, which is unhealthy while a file named `ill` exists."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "predict.py").write_text(PREDICTOR.replace("    def predict(", HEALTHCHECK, 1))
    (folder / "sibling.py").write_text('NAME = "x"\n')
    return folder


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[WebhookReceiver]:
    with receive_webhooks() as receiver:
        yield receiver


@pytest.fixture(scope="module", params=[True, False], ids=["gateway", "cog"])
def server(folder: Path, shared_receiver: WebhookReceiver, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Cog's server, behind the gateway and without it: both behave alike."""
    upload = ["--upload-url", f"{shared_receiver.url}/results/"]
    with Server(folder, arguments=upload, gateway=request.param) as running:
        yield running


@pytest.fixture
def receiver(shared_receiver: WebhookReceiver) -> WebhookReceiver:
    shared_receiver.webhooks.clear()
    shared_receiver.uploads.clear()
    return shared_receiver


@pytest.fixture
def file_server() -> Iterator[tuple[str, type[FaultyHandler]]]:
    handler = fresh_handler()
    with serve(handler) as port:
        yield f"http://127.0.0.1:{port}", handler


def request(
    server: Server, inputs: dict[str, Any], path: str = "", *, respond_async: bool = False, **fields: Any
) -> tuple[int, Any]:
    """POST a prediction at once, or PUT it where a path names it."""
    headers = {"Prefer": "respond-async"} if respond_async else {}
    body = json.dumps({"input": {"image": SMALL} | inputs, **fields}).encode()
    return server.request("PUT" if path else "POST", f"/predictions{path}", body, headers=headers)


def request_when_ready(server: Server, inputs: dict[str, Any], path: str = "", **options: Any) -> tuple[int, Any]:
    """The same after the previous prediction has ended; for a moment after its end the server may still answer 409."""
    server.wait_ready(WAIT_TIMEOUT_S)
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while (response := request(server, inputs, path, **options))[0] == 409:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        server.wait_ready(WAIT_TIMEOUT_S)
    return response


def test_respond_async_and_webhooks(server: Server, receiver: WebhookReceiver) -> None:
    options: dict[str, Any] = {"id": "mine", "webhook": receiver.url, "webhook_events_filter": ["start", "completed"]}
    status, answer = request_when_ready(server, {"steps": 5}, respond_async=True, **options)
    assert (status, answer) == (202, {"id": "mine", "status": "starting"})
    last = receiver.wait_for("succeeded")
    assert receiver.statuses() == ["processing", "succeeded"]
    assert last["id"] == "mine"
    assert last["output"] == f"{receiver.url}/results/answer.bin"
    assert last["metrics"]["size"] == 3
    assert "step 4" in last["logs"]


def test_the_webhook_reports_failures(server: Server, receiver: WebhookReceiver) -> None:
    request_when_ready(server, {"note": "fail"}, respond_async=True, webhook=receiver.url)
    assert "note: 'fail' is not allowed" in receiver.wait_for("failed")["error"]


def test_put_is_idempotent(server: Server, receiver: WebhookReceiver) -> None:
    options: dict[str, Any] = {"respond_async": True, "webhook": receiver.url}
    responses = [
        request_when_ready(server, {"steps": 200}, "/once", **options),
        request(server, {"steps": 200}, "/once", **options),
        request(server, {"steps": 200}, "/once", **options),
    ]
    assert [status for status, _ in responses] == [202, 202, 202]
    assert all(answer["id"] == "once" for _, answer in responses)
    assert request(server, {}, "/another")[0] == 409
    assert receiver.wait_for("succeeded")["logs"].count("step 0\n") == 1
    assert request_when_ready(server, {})[0] == 200
    assert receiver.statuses().count("succeeded") == 1


def test_a_put_with_another_id_is_refused(server: Server) -> None:
    assert request_when_ready(server, {}, "/one", id="two")[0] == 422


def test_an_async_prediction_can_be_cancelled(server: Server, receiver: WebhookReceiver) -> None:
    request_when_ready(server, {"steps": 1000}, "/long", respond_async=True, webhook=receiver.url)
    receiver.wait_for("processing")
    server.cancel("long")
    assert "step 999" not in receiver.wait_for("canceled")["logs"]
    assert server.request("POST", "/predictions/unknown/cancel")[0] == 404


def test_outputs_are_uploaded_to_the_upload_url(server: Server, receiver: WebhookReceiver) -> None:
    status, answer = request_when_ready(server, {}, "/uploaded")
    assert (status, answer["output"]) == (200, f"{receiver.url}/results/answer.bin")
    ((path, headers, data),) = receiver.uploads
    assert (path, data) == ("/results/answer.bin", b"cba")
    assert headers["x-prediction-id"] == "uploaded"


def test_health_states(folder: Path, server: Server) -> None:
    server.wait_ready(WAIT_TIMEOUT_S)
    (folder / "ill").touch()
    try:
        health = server.health()
        assert health["status"] == "UNHEALTHY"
        assert "returned False" in health["user_healthcheck_error"]
        assert request(server, {})[0] == 200, "an unhealthy server accepts requests"
    finally:
        (folder / "ill").unlink()
    server.wait_ready(WAIT_TIMEOUT_S)
    request_when_ready(server, {"steps": 50}, respond_async=True)
    assert server.health()["status"] == "BUSY"
    server.wait_ready(WAIT_TIMEOUT_S)
    assert server.health()["status"] == "READY"


def test_cogs_server_fetches_any_url(server: Server, file_server: tuple[str, type[FaultyHandler]]) -> None:
    """The reason for the egress rule in docs/deploy.md: http, loopback and redirects are all allowed."""
    url, handler = file_server
    status, answer = request_when_ready(server, {"image": f"{url}/redirect?/file"})
    assert (status, answer["status"]) == (200, "succeeded")
    assert answer["metrics"]["size"] == len(FILE)
    assert handler.requests == {"/redirect": 1, "/file": 1}


@pytest.mark.parametrize(
    ("path", "words"),
    [("missing", "404 Client Error"), ("busy-once", "503 Server Error"), ("truncated", "IncompleteRead")],
)
def test_failed_downloads_are_not_retried(
    server: Server, file_server: tuple[str, type[FaultyHandler]], path: str, words: str
) -> None:
    url, handler = file_server
    _, answer = request_when_ready(server, {"image": f"{url}/{path}"})
    assert answer["status"] == "failed"
    assert words in answer["error"]
    assert handler.requests[f"/{path}"] == 1


def test_sigterm_completes_a_synchronous_request(folder: Path, receiver: WebhookReceiver) -> None:
    responses: list[tuple[int, Any]] = []
    with Server(folder) as server:
        client = threading.Thread(target=lambda: responses.append(request(server, {"steps": 30})))
        client.start()
        wait_for_step(server, receiver)
        server.process.send_signal(signal.SIGTERM)
        client.join(WAIT_TIMEOUT_S)
        assert responses[0][1]["status"] == "succeeded"
        assert server.process.wait(WAIT_TIMEOUT_S) == 0


def test_sigterm_drops_an_async_request(folder: Path, receiver: WebhookReceiver) -> None:
    with Server(folder) as server:
        request(server, {"steps": 1000}, respond_async=True, webhook=receiver.url)
        wait_for_step(server, receiver)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_TIMEOUT_S) == 0
    assert receiver.statuses() == ["processing"]
    assert not any("step 999" in line for line in server.logs)


def wait_for_step(server: Server, receiver: WebhookReceiver) -> None:
    """Return once the prediction is running."""
    receiver.wait_until(lambda: any("step 1" in line for line in server.logs))
