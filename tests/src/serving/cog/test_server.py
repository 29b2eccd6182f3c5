"""The server wrapper against the real Cog server."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.cli_inputs import data_uri
from src.serving.cog.server import InputRefusedError, Server, ServerError, predictor_line

FILE = "data:audio/wav;base64,YWJj"
REVERSED = "base64,Y2Jh"


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with Server(project, setup_timeout=30) as running:
        yield running


def broken(project: Path, folder: Path, old: str, new: str) -> Path:
    source = (project / "predict.py").read_text()
    assert old in source
    (folder / "predict.py").write_text(source.replace(old, new))
    (folder / "neighbour.py").write_text('NAME = "x"\n')
    return folder


def test_predicts_in_a_row_without_meeting_busy(server: Server) -> None:
    for _ in range(20):
        answer = server.predict({"picture": FILE})
        assert answer["status"] == "succeeded"
        assert answer["output"].endswith(REVERSED)
        assert answer["metrics"]["size"] == 3


def test_a_file_without_suffix_arrives(server: Server, picture: Path) -> None:
    assert server.predict({"picture": data_uri(picture)})["output"].endswith(REVERSED)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, ["picture", "required"]),
        ({"picture": FILE, "steps": 5000}, ["steps", "5000", "1000"]),
        ({"picture": FILE, "mode": "loud"}, ["mode", "loud", "add", "para"]),
        ({"picture": FILE, "strength": "much"}, ["strength", "much", "number"]),
        ({"picture": FILE, "note": None}, ["note", "null"]),
    ],
)
def test_the_schema_refuses(server: Server, inputs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputRefusedError) as refused:
        server.predict(inputs)
    assert all(word in str(refused.value) for word in words)
    assert len(str(refused.value)) < 300


def test_a_refusal_is_short_even_for_a_large_value(server: Server) -> None:
    with pytest.raises(InputRefusedError) as refused:
        server.predict({"picture": FILE, "mode": "x" * 100_000})
    assert all(word in str(refused.value) for word in ("mode", "xxx", "add", "para"))
    assert len(str(refused.value)) < 300


def test_a_failure_is_an_answer_and_the_next_request_works(server: Server) -> None:
    answer = server.predict({"picture": FILE, "note": "fail"})
    assert answer["status"] == "failed"
    assert "note: 'fail' is not allowed" in answer["error"]
    assert server.predict({"picture": FILE})["status"] == "succeeded"


def test_cancel_stops_the_work_and_leaves_the_next_request_alone(server: Server) -> None:
    answers: list[dict[str, Any]] = []
    request = {"picture": FILE, "steps": 1000}
    thread = threading.Thread(target=lambda: answers.append(server.predict(request, prediction_id="long-one")))
    written = len(server.logs)
    thread.start()
    # BUSY comes before the worker has begun, and a cancel that is earlier than that can be lost.
    wait_for(lambda: any("step " in line for line in server.logs[written:]))
    started = time.monotonic()
    server.cancel("long-one")
    thread.join(5)
    assert answers[0]["status"] == "canceled"
    assert time.monotonic() - started < 2
    assert server.predict({"picture": FILE})["status"] == "succeeded"


def test_logs_come_while_it_runs(project: Path) -> None:
    arrivals: list[tuple[float, str]] = []
    with Server(project, on_log=lambda line: arrivals.append((time.monotonic(), line))) as server:
        server.predict({"picture": FILE, "steps": 25})
        finished = time.monotonic()
    lines = [line for _, line in arrivals]
    assert "setting up next door" in lines
    assert "step 24" in lines
    first = next(when for when, line in arrivals if line == "step 0")
    assert finished - first > 0.3
    assert not any("Spawning worker" in line for line in lines)
    assert any("Spawning worker" in line for line in server.logs)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('print("setting up", neighbour.NAME)', 'raise RuntimeError("set MODEL_PATH")', "set MODEL_PATH"),
        ("import neighbour", "import no_such_neighbour", "no_such_neighbour"),
        ('print("setting up", neighbour.NAME)', "import os; os._exit(1)", "crashed"),
    ],
)
def test_a_failed_setup_is_reported_and_cleaned_up(
    project: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    server = Server(broken(project, tmp_path, old, new), setup_timeout=30)
    with pytest.raises(ServerError, match=words), server:
        pass
    assert server.process.poll() is not None


def test_setup_that_takes_too_long(project: Path, tmp_path: Path) -> None:
    folder = broken(project, tmp_path, 'print("setting up", neighbour.NAME)', "time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"within 0\.5 s"), Server(folder, setup_timeout=0.5):
        pass
    assert time.monotonic() - started < 20


def test_a_crashed_worker_is_said_so_at_once(project: Path) -> None:
    with Server(project) as server:
        assert server.predict({"picture": FILE, "note": "crash"})["error"] == "Worker crashed"
        with pytest.raises(ServerError, match="worker has crashed"):
            server.predict({"picture": FILE})


def test_stop_leaves_no_process(project: Path) -> None:
    with Server(project) as server:
        group = server.process.pid
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_body_over_the_limit_is_not_sent(server: Server) -> None:
    with pytest.raises(ServerError, match="100 MiB"):
        server.predict({"picture": "data:," + "a" * (100 * 2**20)})


def test_only_the_predictor_is_readable() -> None:
    wrapped = '{"level":"INFO","fields":{"message":"step 1","source":"Stdout"},"target":"coglet::prediction"}'
    chatter = '{"level":"INFO","fields":{"message":"Spawning"},"target":"coglet"}'
    assert predictor_line(wrapped) == "step 1"
    assert predictor_line(chatter) is None
    assert predictor_line("Traceback\n") == "Traceback"


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
