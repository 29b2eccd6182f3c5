"""The gateway before the real Cog server: what it refuses, what it deletes, and that the server serves afterwards."""

import asyncio
import fcntl
import html.parser
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from src.serving.cog import gateway_server
from src.serving.cog.failure import plain_error
from src.serving.cog.gateway import Gateway
from src.serving.cog.prediction_folders import FOLDER, FolderInUseError, PredictionFolders, other_server_runs
from src.serving.cog.prediction_request import RefusedError, check_webhook, parse_body
from src.serving.cog.server import Server, free_port
from tests.conftest import ROOT

FILE = "data:audio/wav;base64,YWJj"
STATE_TIMEOUT_S = 60.0
Answer = tuple[int, Any]


@pytest.fixture(scope="module")
def temp_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(project: Path, temp_dir: Path) -> Iterator[Server]:
    with Server(project, env={"TMPDIR": str(temp_dir)}) as running:
        yield running


@pytest.fixture(autouse=True)
def server_serves_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sent, the next request succeeds and nothing of it is left."""
    yield
    if "server" in request.fixturenames:
        server: Server = request.getfixturevalue("server")
        assert server.predict({"image": FILE}, prediction_id="afterwards")["status"] == "succeeded"
        wait_for(lambda: not (FOLDER / "afterwards").exists())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STATE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def post(server: Server, body: dict[str, Any] | bytes, path: str = "/predictions", method: str = "POST") -> Answer:
    return server.request(method, path, body if isinstance(body, bytes) else json.dumps(body).encode())


BAD_IDS = ["x" * 65, "x" * 256, "x" * 10_000, "a\0b", "../../x", "..", ".", "a/b", "", "a b", "ü", "a\n", "a.b"]


@pytest.mark.parametrize("bad_id", BAD_IDS, ids=range(len(BAD_IDS)))
def test_an_id_that_is_no_safe_folder_name_is_refused(server: Server, bad_id: str) -> None:
    before = set(FOLDER.parent.parent.glob("coglet/*"))
    status, answer = post(server, {"input": {"image": FILE}, "id": bad_id})
    assert status == 422
    (problem,) = answer["detail"]
    assert problem["loc"] == ["body", "id"]
    assert "1 to 64 letters, digits, dashes and underscores" in problem["msg"]
    assert len(problem["msg"]) < 300
    if bad_id:
        quoted = "".join(f"%{byte:02x}" for byte in bad_id.encode())
        assert post(server, {"input": {"image": FILE}}, f"/predictions/{quoted}", "PUT")[0] == 422
        assert post(server, {}, f"/predictions/{quoted}/cancel")[0] in {404, 422}
    assert set(FOLDER.parent.parent.glob("coglet/*")) == before


@pytest.mark.parametrize("good_id", ["x", "x" * 64, "A-b_9"])
def test_other_ids_are_cogs(server: Server, good_id: str) -> None:
    assert post(server, {"input": {"image": FILE}, "id": good_id})[1]["id"] == good_id
    assert post(server, {"input": {"image": FILE}}, f"/predictions/{good_id}", "PUT")[1]["id"] == good_id
    assert post(server, {}, f"/predictions/{good_id}-unknown"[:70] + "/cancel")[0] in {404, 422}


@pytest.mark.parametrize("bad_id", [5, True, [], {"a": 1}, 1.5])
def test_an_id_of_another_type_is_refused(server: Server, bad_id: Any) -> None:
    assert post(server, {"input": {"image": FILE}, "id": bad_id})[0] == 422


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'["../../x", {"image": "data:,a"}, null, null, null]', 422, "an object with `input` is needed"),
        (b'{"input": ', 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"id": "good", "id": "../x", "input": {"image": "data:,a"}}', 422, "'../x'"),
        (b"{}", 422, "required"),
        (b'{"input": {"image": "data:,a", "strength": NaN}}', 400, "strength"),
        (b'{"input": {"image": "data:,a", "note": "\\ud800"}}', 400, "note"),
    ],
)
def test_a_malformed_body_is_refused(server: Server, body: bytes, status: int, words: str) -> None:
    answer = post(server, body)
    assert answer[0] == status
    assert words in json.dumps(answer[1])


def test_an_unknown_input_is_named(server: Server) -> None:
    status, answer = post(server, {"input": {"image": FILE, "step": 3}})
    assert status == 422
    assert answer["detail"][0]["loc"] == ["body", "input", "step"]
    assert answer["detail"][0]["msg"].startswith("not an input; did you mean steps?; allowed are image, steps")
    status, answer = post(server, {"input": {"image": FILE, "y" * 1000: 3}})
    assert status == 422
    assert len(json.dumps(answer)) < 500


def test_a_refused_value_is_not_repeated_as_a_whole(server: Server) -> None:
    status, answer = post(server, {"input": {"image": FILE, "mode": "y" * (2 << 20)}})
    assert status == 422
    assert len(json.dumps(answer)) < 500


def test_a_failure_is_one_sentence(server: Server) -> None:
    assert post(server, {"input": {"image": FILE, "note": "fail"}})[1]["error"] == "note: 'fail' is not allowed"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Prediction failed: Prediction failed: InputError: image is empty", "image is empty"),
        ("Prediction failed: TimeLimitError: too long", "too long"),
        ("Prediction failed: KeyError: 'x'", "KeyError: 'x'"),
        ("Worker crashed", "Worker crashed"),
    ],
)
def test_plain_error(text: str, sentence: str) -> None:
    assert plain_error(text) == sentence


WEBHOOKS = [
    "file:///etc/passwd",
    "notaurl",
    "",
    " ",
    "http://",
    "http:///x",
    "http://[::1",
    "http://x:99999/",
    "data:,x",
]
WEBHOOKS += ["http://a b/", "http://a\nb/", "http://\0/", "https://x/" + "y" * 2048, "javascript:alert(1)"]


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=range(len(WEBHOOKS)))
def test_a_webhook_that_cannot_be_called_is_refused(webhook: str) -> None:
    with pytest.raises(RefusedError, match="a URL like https:") as error:
        check_webhook(webhook)
    assert (error.value.status, error.value.loc) == (422, ("body", "webhook"))
    assert len(str(error.value)) < 300


def test_webhooks_that_fail_or_hang_do_not_block_the_server(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        for webhook in (hanging, "http://user:word@127.0.0.1:1/", "HTTP://no.such.invalid/", "http://\xfc.invalid/"):
            body = {"input": {"image": FILE}, "webhook": webhook, "webhook_events_filter": ["start", "completed"]}
            assert post(server, body)[1]["status"] == "succeeded"


@pytest.mark.parametrize(
    ("name", "meant"), [("inputs", "input"), ("webook", "webhook"), ("webhook_event_filter", "webhook_events_filter")]
)
def test_a_misspelled_field_is_refused(server: Server, name: str, meant: str) -> None:
    status, answer = post(server, {"input": {"image": FILE}, name: {}})
    assert status == 422
    assert answer["detail"] == [
        {"loc": ["body", name], "msg": f"not a field; did you mean {meant}?", "type": "value_error"}
    ]
    assert post(server, {"input": {"image": FILE}, "version": "1", "stream": True})[0] == 200


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RefusedError, match="more than 100,000 commas") as error:
        parse_body(b"[" + b"{}," * 100_001 + b"{}]")
    assert error.value.status == 413


def test_a_busy_server_is_waited_for_a_moment(server: Server) -> None:
    answers: list[Answer] = []
    written = len(server.logs)
    threads = [
        threading.Thread(target=lambda steps=steps: answers.append(post(server, {"input": {"image": FILE, **steps}})))
        for steps in ({"steps": 5}, {"steps": 0}, {"steps": 0})
    ]
    for thread in threads:
        thread.start()
        wait_for(lambda: any("got" in line for line in server.logs[written:]))
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200, 200, 200]


def test_twenty_requests_in_a_row_meet_no_409(server: Server) -> None:
    assert {post(server, {"input": {"image": FILE}})[0] for _ in range(20)} == {200}


def test_409_while_a_prediction_runs_on(server: Server) -> None:
    connection = start_long_prediction(server, "occupied")
    assert post(server, {"input": {"image": FILE}})[0] == 409
    connection.close()


def start_long_prediction(server: Server, prediction_id: str) -> http.client.HTTPConnection:
    """The connection of a sync prediction that has begun."""
    written = len(server.logs)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"input": {"image": FILE, "steps": 1000}, "id": prediction_id})
    connection.request("POST", "/predictions", body, {"Content-Type": "application/json"})
    wait_for(lambda: any("step 1" in line for line in server.logs[written:]))
    return connection


def test_closing_the_connection_cancels_and_leaves_nothing(server: Server, temp_dir: Path) -> None:
    connection = start_long_prediction(server, "closed")
    assert (FOLDER / "closed").exists()
    connection.close()
    server.wait_ready(STATE_TIMEOUT_S)
    wait_for(lambda: not (FOLDER / "closed").exists())
    assert not any("step 999" in line for line in server.logs)
    assert [path for path in temp_dir.rglob("*") if path.is_file()] == []


def test_the_folder_of_an_async_prediction_is_deleted_when_it_has_ended(server: Server) -> None:
    body = json.dumps({"input": {"image": FILE, "steps": 10}}).encode()
    headers = {"Prefer": "respond-async"}
    assert server.request("PUT", "/predictions/async-one", body, headers=headers)[0] == 202
    assert (FOLDER / "async-one").exists()
    wait_for(lambda: not (FOLDER / "async-one").exists())


class Links(html.parser.HTMLParser):
    """Collects the addresses of links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if name in {"href", "src"} and value]


def test_the_root_answers_a_person_and_every_link_leads_somewhere(server: Server) -> None:
    status, page = server.request("GET", "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert status == 200
    assert "<h1>MultiTalk</h1>" in page
    assert "<code>strength</code>" in page
    links = Links()
    links.feed(page)
    assert "/docs/inputs.md" in links.addresses
    for address in links.addresses:
        assert server.request("GET", address)[0] == 200, address


def test_every_address_of_cogs_list_answers(server: Server) -> None:
    status, addresses = server.request("GET", "/")
    assert status == 200
    for name in ("docs_url", "healthcheck_url", "openapi_url"):
        assert server.request("GET", addresses[name])[0] == 200, name


@pytest.mark.parametrize("path", ["/nope", "/docs/..%2fpredict.py", "/docs/none.md", "/docs/%2e%2e", "/trainings"])
def test_other_addresses_are_404(server: Server, path: str) -> None:
    assert server.request("GET", path)[0] == 404


def test_shutdown_is_not_for_web_pages(server: Server) -> None:
    assert server.request("POST", "/shutdown", b"", headers={"Origin": "https://example.org"})[0] == 403


def test_shutdown_ends_the_gateway_too(project: Path) -> None:
    with Server(project) as server:
        assert server.request("POST", "/shutdown")[0] == 200
        assert server.process.wait(STATE_TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_an_answer_and_leaves_no_file(project: Path, tmp_path: Path, number: int) -> None:
    answers: list[Answer] = []
    with Server(project, env={"TMPDIR": str(tmp_path)}) as server:
        body = {"input": {"image": FILE, "steps": 30}, "id": "draining"}
        thread = threading.Thread(target=lambda: answers.append(post(server, body)))
        thread.start()
        wait_for(lambda: any("step 1" in line for line in server.logs))
        os.killpg(server.process.pid, number)  # as a terminal does on Ctrl-C
        thread.join(STATE_TIMEOUT_S)
        assert answers[0][1]["status"] == "succeeded"
        assert server.process.wait(STATE_TIMEOUT_S) == 0
    assert not any("Traceback" in line for line in server.logs)
    assert list(tmp_path.iterdir()) == []
    assert not (FOLDER / "draining").exists()


def test_a_killed_gateway_takes_cog_along_and_the_next_start_cleans(project: Path, tmp_path: Path) -> None:
    with Server(project, env={"TMPDIR": str(tmp_path)}) as killed:
        start_long_prediction(killed, "killed-one")
        group = killed.process.pid
        killed.process.kill()
        killed.process.wait()
        wait_for(lambda: not session_processes(group))
    assert [path.name for path in tmp_path.iterdir()] != []
    assert (FOLDER / "killed-one").exists()
    with Server(project, env={"TMPDIR": str(tmp_path)}) as server:
        assert len(list(tmp_path.iterdir())) == 1
        assert other_server_runs() or not (FOLDER / "killed-one").exists()  # as another test's Cog server
        assert server.predict({"image": FILE})["status"] == "succeeded"


def session_processes(session: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_two_servers_share_a_temporary_folder(project: Path, tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}
    with Server(project, env=env) as first:
        start = start_long_prediction(first, "shared-id")
        with Server(project, env=env) as second:
            assert len(list(tmp_path.iterdir())) == 2
            status, answer = post(second, {"input": {"image": FILE}, "id": "shared-id"})
            assert status == 409
            assert "another server on this machine" in answer["detail"]
            assert post(second, {"input": {"image": FILE}, "id": "other-id"})[0] == 200
        assert (FOLDER / "shared-id").exists()
        start.close()
        first.wait_ready(STATE_TIMEOUT_S)
        assert first.predict({"image": FILE})["status"] == "succeeded"


def test_a_crashed_worker_is_said_and_started_again(project: Path, tmp_path: Path) -> None:
    with Server(project, env={"TMPDIR": str(tmp_path)}) as server:
        assert post(server, {"input": {"image": FILE, "note": "crash"}})[1]["error"] == "Worker crashed"
        wait_for(lambda: server.health().get("status") == "UNHEALTHY")
        status, answer = post(server, {"input": {"image": FILE}})
        assert (status, answer["detail"]) == (
            503,
            "the worker has crashed; the server starts it again; try again later",
        )
        wait_for(lambda: server.health().get("status") == "READY")
        assert post(server, {"input": {"image": FILE}})[1]["status"] == "succeeded"
        assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_said_and_does_not_block_the_server(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folders = PredictionFolders(tmp_path / "file")
    with pytest.raises(OSError, match="Not a directory"):
        folders.claim("one")


def test_the_last_claim_deletes_the_folder(tmp_path: Path) -> None:
    folders = PredictionFolders(tmp_path)
    folders.claim("one")
    folders.claim("one")
    with pytest.raises(FolderInUseError, match="one"):
        PredictionFolders(tmp_path).claim("one")
    folders.release("one")
    assert (tmp_path / "one" / "outputs").is_dir()
    folders.release("one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("jump_s", [0.0, 1e6, -1e6])
def test_orphans_are_unlocked_and_old_while_other_servers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Their age does not depend on the clock of the machine, which may jump."""
    now = 0.0
    folders = PredictionFolders(tmp_path, clock=lambda: now)
    folders.claim("running")
    (tmp_path / "old").mkdir()
    monkeypatch.setattr("src.serving.cog.prediction_folders.other_server_runs", lambda: True)
    folders.remove_orphans()
    wall = time.time() + jump_s
    monkeypatch.setattr(time, "time", lambda: wall)
    os.utime(tmp_path / "old", (wall, wall))
    folders.remove_orphans()
    assert {path.name for path in tmp_path.iterdir()} == {"running", "old"}
    now = 3600.0
    (tmp_path / "new").mkdir()
    folders.remove_orphans()
    assert {path.name for path in tmp_path.iterdir()} == {"running", "new"}
    monkeypatch.setattr("src.serving.cog.prediction_folders.other_server_runs", lambda: False)
    folders.remove_orphans()
    assert {path.name for path in tmp_path.iterdir()} == {"running"}
    folders.release("running")


def test_what_other_servers_leave_is_deleted_while_a_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "CLEANUP_INTERVAL_S", 0.01)
    monkeypatch.setattr("src.serving.cog.prediction_folders.other_server_runs", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = PredictionFolders(tmp_path / "predictions")

    def leftovers() -> list[str]:
        """Unlike `Path.glob`, os.walk accepts that folders disappear meanwhile."""
        return [folder for folder, *names in os.walk(tmp_path) if Path(folder) != tmp_path and any(names)]

    async def clean() -> None:
        gateway = cast(Gateway, SimpleNamespace(folders=folders))
        cleaning = asyncio.create_task(gateway_server.clean_repeatedly(gateway))
        for left in ("multitalk-server-x/file", "multitalk-job-y/file", "predictions/one/inputs"):
            (tmp_path / left).mkdir(parents=True)
        while leftovers():
            await asyncio.sleep(0.01)
        cleaning.cancel()

    asyncio.run(asyncio.wait_for(clean(), STATE_TIMEOUT_S))


def test_make_serve_listens_on_loopback_unless_host_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOST", raising=False)
    monkeypatch.delenv("PORT", raising=False)
    arguments = gateway_server.parser().parse_args([])
    assert (arguments.host, arguments.port) == ("127.0.0.1", 5000)
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "5123")
    arguments = gateway_server.parser().parse_args([])
    assert (arguments.host, arguments.port) == ("0.0.0.0", 5123)


@pytest.mark.parametrize("variables", [{"PORT": "x"}, {"PORT": "TAKEN"}, {"HOST": "no.such.host.invalid"}])
def test_an_address_that_cannot_be_had_is_said_in_one_sentence(variables: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {name: value.replace("TAKEN", port) for name, value in variables.items()}
        done = subprocess.run(
            [sys.executable, "-m", "src.serving.cog.server"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(free_port()), **env},
            capture_output=True,
            text=True,
            timeout=STATE_TIMEOUT_S,
            check=False,
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search("port|PORT|HOST", done.stderr)


def test_temporary_folders_are_locked_by_flock(temp_dir: Path, server: Server) -> None:
    (folder,) = temp_dir.iterdir()
    fd = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    assert folder.name.startswith("multitalk-server-")
    assert Path(tempfile.gettempdir()) != folder
