"""A batch's two files: requests, one JSON object a line, and results, one line for each request that has ended."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from src.errors import InputError, truncated_repr

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Record = Mapping[str, Any]
LINE_PREFIX = '{"id": "'
"""Of every line of results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTask:
    """A request: its id (the line's number where it has none), the predictor's inputs, and their digest."""

    id: str
    inputs: Mapping[str, Any]
    digest: str


def read_tasks(path: Path) -> list[BatchTask]:
    """Every request of the file. InputError, which names the line, for one that is no request or whose id is taken."""
    tasks: dict[str, BatchTask] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):  # text within a line may hold other ends of lines
        if not line.strip():
            continue
        task = read_task(line, number)
        if task.id in tasks:
            raise InputError(f"{path}, line {number}: the id {task.id!r} is taken; each request needs its own")
        tasks[task.id] = task
    return list(tasks.values())


def read_text(path: Path) -> str:
    """A text file. InputError for one that is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start:,})") from error


def read_task(line: str, number: int) -> BatchTask:
    """One line."""
    try:
        inputs = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} is no JSON ({error})") from error
    if not isinstance(inputs, dict):
        raise InputError(f"line {number} is {truncated_repr(line)}; an object is needed")
    name = inputs.pop("id", str(number))
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise InputError(
            f"line {number}: the id is {truncated_repr(str(name))}; a text of 1 to 100 letters, digits, dots, dashes "
            f"and "
            "underscores is needed"
        )
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return BatchTask(id=name, inputs=inputs, digest=digest)


class Journal:
    """The file of results: a line is there once its request has ended, and stays there whatever happens next."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.records = read_records(file)

    def write(self, record: Record) -> None:
        """Add a line, and wait until the disk has it."""
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.records[record["id"]] = record

    def open_tasks(self, tasks: list[BatchTask], *, again: bool) -> list[BatchTask]:
        """Those without a result; with `again` failed ones too. InputError for a request that has changed since."""
        for task in tasks:
            record = self.records.get(task.id)
            if record is not None and record["digest"] != task.digest:
                raise InputError(f"request {task.id!r} is another one than that of its result; give it a new id")
        settled = {"succeeded"} if again else {"succeeded", "failed"}
        return [task for task in tasks if self.records.get(task.id, {}).get("status") not in settled]


def read_records(file: IO[str]) -> dict[str, Record]:
    """The last record of each id. A line that was cut off by a crash is taken away.

    InputError for a file that holds anything else: it is somebody's, and stays as it is.
    """
    file.seek(0)
    whole, records = 0, {}
    for number, line in enumerate(iter(file.readline, ""), 1):
        if not line.endswith("\n") and line.startswith(LINE_PREFIX[: len(line)]):
            break
        record = read_record(line, number, file.name)
        records[record["id"]] = record
        whole = file.tell()
    file.seek(whole)
    file.truncate()
    return records


def read_record(line: str, number: int, name: str) -> Record:
    """A line of results."""
    try:
        record: Record = json.loads(line)
        if {type(record[field]) for field in ("id", "digest", "status")} == {str}:
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise InputError(
        f"{name}, line {number} is {truncated_repr(line.strip())}, which is no result; another file is needed"
    )


def require_distinct(requests: Path, results: Path) -> None:
    """InputError when both are one file."""
    if results.exists() and results.samefile(requests):
        raise InputError(f"{results} is the file of requests; another one is needed for results")


@contextmanager
def journal(path: Path) -> Iterator[Journal]:
    """The journal at a path, for one batch at a time. InputError while another one writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path} is being written by another batch; wait for it") from error
        yield Journal(file)
