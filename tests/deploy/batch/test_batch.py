"""Batches over real Ray workers. The workers of the quick tests make small files instead of videos."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from src.media.errors import InputError

from deploy.batch.driver import BatchError, BatchOptions, WorkerPool, make_plan, parser, run, start_ray, worker_maker
from deploy.batch.files import BatchTask, Journal, Record, journal, read_tasks, require_distinct
from deploy.batch.model import ModelWorker
from deploy.runner import Runner
from tests.conftest import ROOT
from tests.deploy.batch.file_worker import Scribe
from tests.deploy.conftest import SMALL, child_environment
from tests.predict.uploads import plain, uri, voice
from tests.src.storage.store import LocalStore

TWO = BatchOptions(workers=2, attempts=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start_ray(None)
    yield
    ray.shutdown()


def requests(folder: Path, **acts: str) -> list[BatchTask]:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps({"id": name, "act": act}) + "\n" for name, act in acts.items()))
    return read_tasks(path)


def work(folder: Path, tasks: list[BatchTask], *, again: bool = False) -> dict[str, Record]:
    """One run of a batch; every record."""
    with journal(folder / "results.jsonl") as results:
        run(results.open_tasks(tasks, again=again), results, worker_maker(Scribe, str(folder), 0), TWO)
        return dict(results.records)


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun").read_text().split())


def lines(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    acts = {"a": "", "b": "die once", "c": "", "d": "fail once", "e": "refuse", "f": "fail", "g": "take too long"}
    records = work(tmp_path, requests(tmp_path, **acts))
    assert {name: record["status"] for name, record in records.items()} == {
        **dict.fromkeys("abcd", "succeeded"),
        **dict.fromkeys("efg", "failed"),
    }
    assert {name: record["attempts"] for name, record in records.items()} == {
        **dict.fromkeys("aceg", 1),
        **dict.fromkeys("bd", 2),
        "f": 2,
    }
    assert records["e"]["error"] == "image is bad"
    assert records["f"]["error"] == "ConnectionError: the store is away"
    assert begun(tmp_path) == {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1, "f": 2, "g": 1}
    assert len(lines(tmp_path)) == 7
    assert all((tmp_path / f"{name}.mp4").read_text() == name for name in "abcd")


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_a_request_that_kills_every_worker_fails_and_harms_no_other(tmp_path: Path) -> None:
    records = work(tmp_path, requests(tmp_path, a="die", b="", c=""))
    assert {name: record["status"] for name, record in records.items()} == {
        "a": "failed",
        "b": "succeeded",
        "c": "succeeded",
    }
    assert "Died" in records["a"]["error"]
    assert begun(tmp_path) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.usefixtures("cluster")
def test_a_batch_that_crashed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It crashes with results on the shelf that it has not written down, and with half a line written."""
    tasks = requests(tmp_path, **dict.fromkeys("abcdef", ""))
    write = Journal.write

    def crash(self: Journal, record: Record) -> None:
        if len(self.records) == 3:
            self.file.write('{"id": "half')
            self.file.flush()
            raise KeyboardInterrupt
        write(self, record)

    monkeypatch.setattr(Journal, "write", crash)
    monkeypatch.setattr(WorkerPool, "dismiss", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, tasks)
    monkeypatch.undo()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.json"))) < sum(begun(tmp_path).values()):  # what was under way ends
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sum(begun(tmp_path).values()) > 3
    records = work(tmp_path, tasks)
    assert sorted(records) == list("abcdef")
    assert sorted(record["id"] for record in lines(tmp_path)) == list("abcdef")
    assert set(begun(tmp_path).values()) == {1}
    work(tmp_path, tasks)
    assert set(begun(tmp_path).values()) == {1}


@pytest.mark.usefixtures("cluster")
def test_failed_ones_are_tried_again_when_asked(tmp_path: Path) -> None:
    tasks = requests(tmp_path, a="refuse", b="")
    work(tmp_path, tasks)
    work(tmp_path, tasks)
    assert begun(tmp_path) == {"a": 1, "b": 1}
    work(tmp_path, tasks, again=True)
    assert begun(tmp_path) == {"a": 2, "b": 1}


@pytest.mark.usefixtures("cluster")
def test_without_workers_no_request_fails(tmp_path: Path) -> None:
    (tmp_path / "no workers").touch()
    with pytest.raises(BatchError, match="no worker can be made: RuntimeError: there are no weights"):
        work(tmp_path, requests(tmp_path, a=""))
    assert lines(tmp_path) == []


def test_a_changed_request_needs_a_new_id(tmp_path: Path) -> None:
    (task,) = requests(tmp_path, a="one")
    with journal(tmp_path / "results.jsonl") as results:
        results.write({"id": "a", "digest": task.digest, "status": "succeeded"})
        with pytest.raises(InputError, match="'a' is another one than that of its result"):
            results.open_tasks(requests(tmp_path, a="two"), again=False)


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
def test_a_file_that_is_no_results_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="which is no result"), journal(path):
        pass
    assert path.read_text() == text


def test_requests_and_results_are_two_files(tmp_path: Path) -> None:
    path, link = tmp_path / "requests.jsonl", tmp_path / "link.jsonl"
    path.touch()
    link.symlink_to(path)
    with pytest.raises(InputError, match="is the file of requests"):
        require_distinct(path, link)
    require_distinct(path, tmp_path / "results.jsonl")


def test_text_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    prompts = ["one\u2028two", "one\x85two", "one\x0ctwo"]
    rows = [json.dumps({"id": f"r{n}", "prompt": prompt}, ensure_ascii=False) for n, prompt in enumerate(prompts)]
    path.write_text("\r\n".join(rows), encoding="utf-8", newline="")
    assert [task.inputs["prompt"] for task in read_tasks(path)] == prompts
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("arguments", "gpus", "workers", "share"),
    [([], 0, 1, 0), ([], 4, 4, 1), (["--workers=8", "--gpus-per-worker=0.5"], 4, 8, 0.5), (["--workers=3"], 0, 3, 0)],
)
def test_workers_and_their_gpus(arguments: list[str], gpus: float, workers: int, share: float) -> None:
    plan = make_plan(parser().parse_args(["a", "b", "--output=c", *arguments]), gpus)
    assert (plan.workers, plan.gpus) == (workers, share)


def test_workers_that_would_wait_for_ever() -> None:
    many = ["a", "b", "--output=c", "--workers=8"]
    with pytest.raises(BatchError, match="8 workers need 8 GPUs, 2 are there"):
        make_plan(parser().parse_args(many), 2.0)
    assert make_plan(parser().parse_args([*many, "--address=auto"]), 2.0).workers == 8


@pytest.mark.parametrize("argument", ["--workers=0", "--workers=-1", "--attempts=0", "--attempts=x"])
def test_arguments_that_cannot_be(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["a", "b", "--output=c", argument])
    assert "invalid positive value" in capsys.readouterr().err


def test_one_batch_at_a_time(tmp_path: Path) -> None:
    with (
        journal(tmp_path / "results.jsonl"),
        pytest.raises(InputError, match="being written by another batch"),
        journal(tmp_path / "results.jsonl"),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[]", r"line 1 is '\[\]'; an object is needed"),
        ('{"id": "../x"}', r"line 1: the id is '\.\./x'"),
        ('{"id": 5}', "line 1: the id is '5'"),
        ('{"id": "a"}\n\n{"id": "a"}', "line 3: the id 'a' is taken"),
    ],
)
def test_requests_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_tasks(path)


def test_a_worker_makes_a_video_and_takes_over_one_that_is_there(
    engine: Runner, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ModelWorker("s3://talks/batch")
    worker.service = type(worker.service)(engine=engine, inputs=worker.service.inputs)
    task = BatchTask(id="one", inputs={"image": "multi1.png", "first_audio": "1.wav", "seed": 3, **SMALL}, digest="d")
    record = worker.work(task)
    assert (record["status"], record["output"]) == ("succeeded", "s3://talks/batch/one.mp4")
    assert record["metrics"]["seed"] == 3
    assert {"batch/one.mp4", "batch/one.json"} <= set(store.objects())
    monkeypatch.setattr(worker, "make", None)
    assert worker.work(task) == record
    bad = BatchTask(id="two", inputs={"image": 5, "first_audio": "1.wav"}, digest="d")
    monkeypatch.undo()
    assert worker.work(bad)["error"] == "image is 5; text is needed"


def test_results_go_to_the_configured_bucket_only(store: LocalStore) -> None:
    with pytest.raises(InputError, match="'theirs'; 'talks' is needed"):
        ModelWorker("s3://theirs/batch")


@pytest.mark.soak
def test_the_command_through_kills_of_a_worker_and_of_the_batch(environ: dict[str, str], tmp_path: Path) -> None:
    """With the real model: a worker is killed, then the batch itself; the same command ends the work."""
    inputs = {"image": uri(plain()), "first_audio": uri(voice()), **SMALL}
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({**inputs, "id": f"r{seed}", "seed": seed}) + "\n" for seed in range(12)))
    output, results = tmp_path / "videos", tmp_path / "results.jsonl"
    command = [
        sys.executable,
        "-m",
        "deploy.batch.driver",
        str(path),
        str(results),
        "--output",
        str(output),
        "--workers",
        "2",
    ]
    env = child_environment(environ)

    def videos() -> list[Path]:
        return sorted(output.glob("*.mp4"))

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 240
        while len(videos()) < count:
            assert batch.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    batch = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        wait_for(2)
        os.kill(workers_of(batch.pid)[0], signal.SIGKILL)
        wait_for(5)
    finally:
        os.killpg(batch.pid, signal.SIGKILL)
        batch.wait()
    finished = {video.name: video.stat().st_mtime_ns for video in videos() if video.with_suffix(".json").exists()}
    done = subprocess.run(command, cwd=ROOT, env=env, timeout=300, check=False)
    assert done.returncode == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(record["id"] for record in records) == sorted(f"r{seed}" for seed in range(12))
    assert {record["status"] for record in records} == {"succeeded"}
    assert len(videos()) == 12
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished


def workers_of(driver: int) -> list[int]:
    """Processes of Ray workers with a model, in the session of the batch."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if b"ray::ModelWorker" in name and session == driver:
            found.append(int(folder.name))
    return found
