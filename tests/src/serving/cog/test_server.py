"""Server against the real Cog server."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.cli_inputs import data_uri
from src.serving.cog.server import InputRefusedError, Server, ServerError, predictor_line, validation_message
from tests.waiting import wait_until

FILE = "data:audio/wav;base64,YWJj"
REVERSED = "base64,Y2Jh"


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with Server(project) as running:
        yield running


def changed_project(project: Path, folder: Path, old: str, new: str) -> Path:
    source = (project / "predict.py").read_text()
    assert old in source
    (folder / "predict.py").write_text(source.replace(old, new))
    (folder / "sibling.py").write_text('NAME = "x"\n')
    return folder


def test_consecutive_predictions_wait_for_each_other(server: Server) -> None:
    for _ in range(20):
        answer = server.predict({"image": FILE})
        assert answer["status"] == "succeeded"
        assert answer["output"].endswith(REVERSED)
        assert answer["metrics"]["size"] == 3


def test_concurrent_predictions_wait_for_each_other(server: Server) -> None:
    answers: list[dict[str, Any]] = []
    clients = [
        threading.Thread(target=lambda: answers.append(server.predict({"image": FILE, "steps": 10}))) for _ in range(3)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [answer["status"] for answer in answers] == ["succeeded"] * 3


def test_a_file_is_sent_as_a_data_uri(server: Server, image: Path) -> None:
    assert server.predict({"image": data_uri(image)})["output"].endswith(REVERSED)


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({}, "image"),
        ({"image": FILE, "steps": 5000}, "steps"),
        ({"image": FILE, "mode": "x" * 100_000}, "mode"),
        ({"image": FILE, "strength": "much"}, "strength"),
        ({"image": FILE, "note": None}, "note"),
    ],
)
def test_inputs_that_violate_the_schema_are_refused(server: Server, inputs: dict[str, Any], name: str) -> None:
    with pytest.raises(InputRefusedError, match=name) as refused:
        server.predict(inputs)
    assert len(str(refused.value)) < 300


def test_the_refusal_of_a_long_value_keeps_both_ends() -> None:
    answer = {"detail": [{"loc": ["body", "input", "mode"], "msg": f"'{'x' * 1000}' is not one of ['add', 'para']"}]}
    message = validation_message(answer)
    assert message.startswith("mode: 'xxx")
    assert message.endswith("is not one of ['add', 'para']")
    assert len(message) < 300


def test_the_server_works_after_a_failed_prediction(server: Server) -> None:
    answer = server.predict({"image": FILE, "note": "fail"})
    assert answer["status"] == "failed"
    assert "note: 'fail' is not allowed" in answer["error"]
    assert server.predict({"image": FILE})["status"] == "succeeded"


def test_the_server_works_after_a_cancelled_prediction(server: Server) -> None:
    answers: list[dict[str, Any]] = []
    inputs = {"image": FILE, "steps": 1000}
    client = threading.Thread(target=lambda: answers.append(server.predict(inputs, prediction_id="long-one")))
    written = len(server.logs)
    client.start()
    # Cog reports BUSY before the worker has begun, and a cancel request before that can be lost.
    wait_until(lambda: any("step " in line for line in server.logs[written:]))
    server.cancel("long-one")
    client.join()
    assert answers[0]["status"] == "canceled"
    assert not any("step 999" in line for line in server.logs[written:])
    assert server.predict({"image": FILE})["status"] == "succeeded"


def test_log_lines_arrive_during_the_prediction(project: Path) -> None:
    events: list[str] = []
    with Server(project, on_log=events.append) as server:
        client = threading.Thread(target=lambda: server.predict({"image": FILE, "steps": 200}))
        client.start()
        wait_until(lambda: "step 0" in events)
        assert client.is_alive()
        client.join()
        wait_until(lambda: "step 199" in events)
    assert "setting up sibling" in events
    assert not any("Spawning worker" in line for line in events)
    assert any("Spawning worker" in line for line in server.logs)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('print("setting up", sibling.NAME)', 'raise RuntimeError("set MODEL_PATH")', "set MODEL_PATH"),
        ("import sibling", "import no_such_sibling", "no_such_sibling"),
        ('print("setting up", sibling.NAME)', "import os; os._exit(1)", "crashed"),
    ],
)
def test_a_failed_setup_is_reported_and_ends_the_server(
    project: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    server = Server(changed_project(project, tmp_path, old, new))
    with pytest.raises(ServerError, match=words), server:
        pass
    assert server.process.poll() is not None


def test_setup_has_a_timeout(project: Path, tmp_path: Path) -> None:
    folder = changed_project(project, tmp_path, 'print("setting up", sibling.NAME)', "time.sleep(600)")
    server = Server(folder, setup_timeout=0.5)
    with pytest.raises(ServerError, match=r"--setup-timeout\) did not end within 0\.5 s"), server:
        pass
    assert server.process.poll() is not None


def test_a_crashed_worker_is_reported(project: Path) -> None:
    with Server(project) as server:
        assert server.predict({"image": FILE, "note": "crash"})["error"] == "Worker crashed"
        with pytest.raises(ServerError, match="worker has crashed"):
            server.predict({"image": FILE})


def test_stop_ends_every_process(project: Path) -> None:
    with Server(project) as server:
        group = server.process.pid
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_body_over_the_limit_is_not_sent(server: Server) -> None:
    with pytest.raises(ServerError, match="100 MiB"):
        server.predict({"image": "data:," + "a" * (100 * 2**20)})


def test_lines_of_the_server_itself_are_dropped() -> None:
    wrapped = '{"level":"INFO","fields":{"message":"step 1","source":"Stdout"},"target":"coglet::prediction"}'
    own = '{"level":"INFO","fields":{"message":"Spawning"},"target":"coglet"}'
    assert predictor_line(wrapped) == "step 1"
    assert predictor_line(own) is None
    assert predictor_line("Traceback\n") == "Traceback"
