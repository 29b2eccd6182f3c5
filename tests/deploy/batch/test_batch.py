"""Batches over real Ray workers. The workers of the quick tests write small files instead of videos."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from deploy.batch.arguments import make_parser
from deploy.batch.driver import BatchError, BatchOptions, resolve_options, run, start_ray, worker_factory
from deploy.batch.files import BatchTask, Journal, Record, open_journal, read_tasks, require_distinct
from deploy.batch.model import ModelWorker
from deploy.batch.worker import BatchWorker
from deploy.runner import Runner
from src.errors import InputError
from src.storage.outputs import OutputStore
from tests.conftest import ROOT
from tests.deploy.batch.file_worker import FileWorker
from tests.deploy.conftest import SMALL, child_environment
from tests.predict.media_files import plain, uri, voice
from tests.src.storage.local_s3 import LocalS3
from tests.waiting import wait_until

OPTIONS = BatchOptions(num_workers=2, max_attempts=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start_ray(None)
    yield
    ray.shutdown()


def write_requests(folder: Path, **acts: str) -> list[BatchTask]:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps({"id": task_id, "act": act}) + "\n" for task_id, act in acts.items()))
    return read_tasks(path)


def run_batch(folder: Path, tasks: list[BatchTask], *, retry_failed: bool = False) -> dict[str, Record]:
    """Run a batch; every record of its results."""
    with open_journal(folder / "results.jsonl") as results:
        pending = results.pending(tasks, retry_failed=retry_failed)
        run(pending, results, worker_factory(FileWorker, str(folder), OPTIONS), OPTIONS)
        return dict(results.records)


def attempts(folder: Path) -> Counter[str]:
    return Counter((folder / "attempts").read_text().split())


def result_lines(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("cluster")
def test_crashed_worker_is_restarted_and_its_request_retried(tmp_path: Path) -> None:
    acts = {"a": "", "b": "crash once", "c": "", "d": "raise once", "e": "bad input", "f": "raise"}
    records = run_batch(tmp_path, write_requests(tmp_path, **acts, g="take too long"))
    assert {task_id: record["status"] for task_id, record in records.items()} == {
        **dict.fromkeys("abcd", "succeeded"),
        **dict.fromkeys("efg", "failed"),
    }
    assert {task_id: record["attempts"] for task_id, record in records.items()} == {
        **dict.fromkeys("aceg", 1),
        **dict.fromkeys("bdf", 2),
    }
    assert records["e"]["error"] == "image is bad"
    assert records["f"]["error"] == "ConnectionError: the store is not reachable"
    assert attempts(tmp_path) == {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1, "f": 2, "g": 1}
    assert len(result_lines(tmp_path)) == 7
    assert all((tmp_path / f"{task_id}.mp4").read_text() == task_id for task_id in "abcd")


@pytest.mark.usefixtures("cluster")
def test_request_that_always_crashes_fails_and_the_others_go_on(tmp_path: Path) -> None:
    records = run_batch(tmp_path, write_requests(tmp_path, a="crash", b="", c=""))
    assert {task_id: record["status"] for task_id, record in records.items()} == {
        "a": "failed",
        "b": "succeeded",
        "c": "succeeded",
    }
    assert "ActorUnavailableError" in records["a"]["error"]
    assert records["a"]["attempts"] == 2
    assert attempts(tmp_path) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.usefixtures("cluster")
def test_interrupted_batch_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted while a line of results is half written and other videos are stored without a line."""
    tasks = write_requests(tmp_path, **dict.fromkeys("abcdef", ""))
    write = Journal.write

    def interrupt(self: Journal, record: Record) -> None:
        if len(self.records) == 3:
            self.file.write(b'{"id": "half')
            self.file.flush()
            raise KeyboardInterrupt
        write(self, record)

    monkeypatch.setattr(Journal, "write", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:  # its traceback keeps the actors alive until they are idle
        run_batch(tmp_path, tasks)
    monkeypatch.undo()
    wait_until(lambda: len(list(tmp_path.glob("*.json"))) == attempts(tmp_path).total())
    del interrupted
    assert attempts(tmp_path).total() > 3
    records = run_batch(tmp_path, tasks)
    assert sorted(records) == list("abcdef")
    assert sorted(record["id"] for record in result_lines(tmp_path)) == list("abcdef")
    assert set(attempts(tmp_path).values()) == {1}
    run_batch(tmp_path, tasks)
    assert set(attempts(tmp_path).values()) == {1}


@pytest.mark.usefixtures("cluster")
def test_failed_requests_run_again_only_with_retry_failed(tmp_path: Path) -> None:
    tasks = write_requests(tmp_path, a="bad input", b="")
    run_batch(tmp_path, tasks)
    run_batch(tmp_path, tasks)
    assert attempts(tmp_path) == {"a": 1, "b": 1}
    run_batch(tmp_path, tasks, retry_failed=True)
    assert attempts(tmp_path) == {"a": 2, "b": 1}


@pytest.mark.parametrize("flag", ["--retry-failed", "--again"])
def test_retry_failed_has_its_old_name_too(flag: str) -> None:
    assert make_parser().parse_args(["a", "b", "--output=c", flag]).retry_failed
    assert not make_parser().parse_args(["a", "b", "--output=c"]).retry_failed


@pytest.mark.usefixtures("cluster")
def test_worker_that_cannot_load_stops_the_batch_and_fails_no_request(tmp_path: Path) -> None:
    (tmp_path / "fail to load").touch()
    with pytest.raises(BatchError, match=r"a worker cannot be started: .*there are no weights"):
        run_batch(tmp_path, write_requests(tmp_path, a=""))
    assert result_lines(tmp_path) == []


@pytest.mark.usefixtures("cluster")
def test_worker_that_cannot_restart_stops_the_batch_and_fails_no_request(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"a worker crashed and cannot be restarted: .*there are no weights"):
        run_batch(tmp_path, write_requests(tmp_path, a="crash for good"))
    assert result_lines(tmp_path) == []


def test_a_video_without_a_record_is_replaced_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (task, other) = write_requests(tmp_path, a="", b="")
    (tmp_path / "a.mp4").write_text("of someone else")
    worker = FileWorker(str(tmp_path))
    assert [worker.process(each)["status"] for each in (task, other)] == ["succeeded", "succeeded"]
    assert caplog.messages == ["a.mp4 is in --output without the record of a result; it is replaced"]


def test_changed_request_needs_a_new_id(tmp_path: Path) -> None:
    (task,) = write_requests(tmp_path, a="one")
    with open_journal(tmp_path / "results.jsonl") as results:
        results.write({"id": "a", "digest": task.digest, "status": "succeeded"})
        with pytest.raises(InputError, match="'a' has changed"):
            results.pending(write_requests(tmp_path, a="two"), retry_failed=False)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "image": "a.png"}\n',
        '{"id": "a", "digest": "d", "status": "succeeded"}\nmy notes\n',
        "my notes",
        "[]\n",
        "{}\n",
        "[" * 100_000,
    ],
)
def test_other_file_is_not_overwritten_by_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="not a result"), open_journal(path):
        pass
    assert path.read_text() == text


COMPLETE = '{"id": "a", "digest": "d", "status": "failed", "error": "Größe"}\n'.encode()


@pytest.mark.parametrize("length", range(1, 64, 7))
def test_a_torn_last_line_is_cut_off_also_inside_a_character(tmp_path: Path, length: int) -> None:
    path = tmp_path / "results.jsonl"
    torn = '{"id": "b", "digest": "d", "status": "failed", "error": "ääääääää"}\n'.encode()[:length]
    path.write_bytes(COMPLETE + torn)
    with open_journal(path) as journal:
        assert list(journal.records) == ["a"]
        journal.write({"id": "b", "digest": "d", "status": "failed", "error": "ä\ud800"})
    assert path.read_bytes().startswith(COMPLETE)
    with open_journal(path) as journal:
        assert journal.records["b"]["error"] == "ä\ud800"


def test_results_that_are_not_utf8_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\xff\xfe notes\n" + COMPLETE)
    with pytest.raises(InputError, match=r"line 1 is .*not a result"), open_journal(path):
        pass
    assert path.read_bytes() == b"\xff\xfe notes\n" + COMPLETE


class CountingWorker(BatchWorker):
    """Counts its videos."""

    videos = 0

    def generate(self, task: BatchTask) -> dict[str, Any]:
        self.videos += 1
        return {}


@pytest.mark.parametrize(
    "data",
    [
        b"my notes",
        b"[]",
        b"{}",
        b'"digest"',
        b'{"digest": 5}',
        b'{"id": "b", "digest": "d"}',
        b"\xff",
        b"",
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_a_foreign_file_in_place_of_a_record_fails_the_request_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    worker = CountingWorker(OutputStore(root=str(tmp_path)))
    record = worker.process(BatchTask(id="a", inputs={}, digest="d"))
    assert record["status"] == "failed"
    assert "a.json that is not the record of a result" in record["error"]
    assert worker.videos == 0
    assert (tmp_path / "a.json").read_bytes() == data
    assert worker.process(BatchTask(id="b", inputs={}, digest="d"))["status"] == "succeeded"


@pytest.mark.parametrize("name", ["image", "prompt"])
def test_a_lone_surrogate_fails_the_request_once(
    runner: Runner, store: LocalS3, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("deploy.batch.model.Runner", lambda: runner)
    inputs = {"image": "multi1.png", "first_audio": "1.wav", **SMALL, name: "data:,a\udc80"}
    record = ModelWorker("s3://talks/batch").process(BatchTask(id="one", inputs=inputs, digest="d"))
    assert record["status"] == "failed"
    assert record["error"].startswith(f"{name} holds U+DC80, one half of a character")


def test_requests_and_results_must_be_different_files(tmp_path: Path) -> None:
    path, link = tmp_path / "requests.jsonl", tmp_path / "link.jsonl"
    path.touch()
    link.symlink_to(path)
    with pytest.raises(InputError, match="is the file of requests"):
        require_distinct(path, link)
    require_distinct(path, tmp_path / "results.jsonl")


def test_unicode_line_separators_do_not_split_a_request(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    prompts = ["one\u2028two", "one\x85two", "one\x0ctwo"]
    rows = [json.dumps({"id": f"r{n}", "prompt": prompt}, ensure_ascii=False) for n, prompt in enumerate(prompts)]
    path.write_text("\r\n".join(rows), encoding="utf-8", newline="")
    assert [task.inputs["prompt"] for task in read_tasks(path)] == prompts
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InputError, match="not valid UTF-8"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("arguments", "gpus", "workers", "share"),
    [([], 0, 1, 0), ([], 4, 4, 1), (["--workers=8", "--gpus-per-worker=0.5"], 4, 8, 0.5), (["--workers=3"], 0, 3, 0)],
)
def test_number_of_workers_and_their_gpus(arguments: list[str], gpus: float, workers: int, share: float) -> None:
    options = resolve_options(make_parser().parse_args(["a", "b", "--output=c", *arguments]), gpus)
    assert (options.num_workers, options.gpus_per_worker) == (workers, share)


def test_more_workers_than_gpus_are_refused_on_a_single_machine() -> None:
    many = ["a", "b", "--output=c", "--workers=8"]
    with pytest.raises(BatchError, match="8 workers need 8 GPUs, 2 are available"):
        resolve_options(make_parser().parse_args(many), 2.0)
    assert resolve_options(make_parser().parse_args([*many, "--address=auto"]), 2.0).num_workers == 8


@pytest.mark.parametrize("argument", ["--workers=0", "--workers=-1", "--attempts=0", "--attempts=x"])
def test_invalid_numbers_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["a", "b", "--output=c", argument])
    assert "a whole number of at least 1 is needed" in capsys.readouterr().err


def test_results_are_locked_by_one_batch(tmp_path: Path) -> None:
    with (
        open_journal(tmp_path / "results.jsonl"),
        pytest.raises(InputError, match="being written by another batch"),
        open_journal(tmp_path / "results.jsonl"),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 is not valid JSON"),
        ("[" * 100_000, "line 1 is not valid JSON"),
        ("[]", r"line 1 is '\[\]'; an object is needed"),
        ('{"id": "../x"}', r"line 1: the id is '\.\./x'"),
        ('{"id": 5}', "line 1: the id is '5'"),
        ('{"id": "a"}\n\n{"id": "a"}', "line 3: the id 'a' is used twice"),
    ],
)
def test_invalid_requests_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_tasks(path)


def test_worker_generates_a_video_and_reuses_a_stored_one(
    runner: Runner, store: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.batch.model.Runner", lambda: runner)
    worker = ModelWorker("s3://talks/batch")
    task = BatchTask(id="one", inputs={"image": "multi1.png", "first_audio": "1.wav", "seed": 3, **SMALL}, digest="d")
    record = worker.process(task)
    assert (record["status"], record["output"]) == ("succeeded", "s3://talks/batch/one.mp4")
    assert record["metrics"]["seed"] == 3
    assert {"batch/one.mp4", "batch/one.json"} <= set(store.objects())
    bad = BatchTask(id="two", inputs={"image": 5, "first_audio": "1.wav"}, digest="d")
    assert worker.process(bad)["error"] == "image is 5; text is needed"
    monkeypatch.setattr(worker, "generate", None)
    assert worker.process(task) == record


def test_results_go_to_the_configured_bucket_only(store: LocalS3) -> None:
    with pytest.raises(InputError, match="'theirs'; 'talks' is needed"):
        ModelWorker("s3://theirs/batch")


@pytest.mark.soak
def test_command_resumes_after_a_worker_and_the_batch_were_killed(environ: dict[str, str], tmp_path: Path) -> None:
    """With the built-in model: kill a worker, then the batch; the same command completes it."""
    inputs = {"image": uri(plain()), "first_audio": uri(voice()), **SMALL}
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({**inputs, "id": f"r{seed}", "seed": seed}) + "\n" for seed in range(12)))
    output, results = tmp_path / "videos", tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "deploy.batch", str(path), str(results), "--output", str(output), "--workers", "2"]
    env = child_environment(environ)

    def videos() -> list[Path]:
        return sorted(output.glob("*.mp4"))

    def wait_for(count: int) -> None:
        wait_until(lambda: len(videos()) >= count or batch.poll() is not None)
        assert batch.poll() is None

    batch = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        wait_for(2)
        os.kill(worker_pids(batch.pid)[0], signal.SIGKILL)
        wait_for(5)
    finally:
        os.killpg(batch.pid, signal.SIGKILL)
        batch.wait()
    finished = {video.name: video.stat().st_mtime_ns for video in videos() if video.with_suffix(".json").exists()}
    assert subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(record["id"] for record in records) == sorted(f"r{seed}" for seed in range(12))
    assert {record["status"] for record in records} == {"succeeded"}
    assert len(videos()) == 12
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished


def worker_pids(driver: int) -> list[int]:
    """Process ids of the Ray workers with a model, in the session of the batch."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if b"ray::ModelWorker" in name and session == driver:
            pids.append(int(folder.name))
    return pids
