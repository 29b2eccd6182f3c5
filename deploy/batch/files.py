"""The two files of a batch: requests, one JSON object per line, and results, one line per finished request."""

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
LINE_PREFIX = b'{"id": "'
"""Every line of results begins with it; a truncated last line that does can be removed safely."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTask:
    """A request: its id (the line number where it has none), the inputs of predict(), and their digest."""

    id: str
    inputs: Mapping[str, Any]
    digest: str


def read_tasks(path: Path) -> list[BatchTask]:
    """Every request of the file. InputError, which names the line, for an invalid request or a repeated id."""
    tasks: dict[str, BatchTask] = {}
    lines = read_text(path).split("\n")  # not splitlines(): strings in JSON may contain U+2028 and the like
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        task = parse_task(line, number)
        if task.id in tasks:
            raise InputError(f"{path}, line {number}: the id {task.id!r} is used twice; ids must be unique")
        tasks[task.id] = task
    return list(tasks.values())


def read_text(path: Path) -> str:
    """The text of a file. InputError unless it is UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid UTF-8 ({error.reason} at byte {error.start:,})") from error


def parse_task(line: str, number: int) -> BatchTask:
    """The request of one line."""
    try:
        inputs = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} is not valid JSON ({error})") from error
    if not isinstance(inputs, dict):
        raise InputError(f"line {number} is {truncated_repr(line)}; an object is needed")
    task_id = inputs.pop("id", str(number))
    if not isinstance(task_id, str) or not ID.fullmatch(task_id):
        raise InputError(
            f"line {number}: the id is {truncated_repr(str(task_id))}; a string of 1 to 100 letters, digits, dots, "
            "dashes and underscores is needed"
        )
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return BatchTask(id=task_id, inputs=inputs, digest=digest)


class Journal:
    """The file of results, append-only: a line is written once its request has finished and never changed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.records = read_records(file)

    def write(self, record: Record) -> None:
        """Append a line and fsync."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self.file.write(line.encode(errors="backslashreplace"))  # a lone surrogate becomes JSON's escape for it
        self.file.flush()
        os.fsync(self.file.fileno())
        self.records[record["id"]] = record

    def pending(self, tasks: list[BatchTask], *, retry_failed: bool) -> list[BatchTask]:
        """The requests without a result; with `retry_failed` also those that failed.

        InputError for a request whose inputs differ from those of its result.
        """
        for task in tasks:
            record = self.records.get(task.id)
            if record is not None and record["digest"] != task.digest:
                raise InputError(f"request {task.id!r} has changed since its result was written; give it a new id")
        done = {"succeeded"} if retry_failed else {"succeeded", "failed"}
        return [task for task in tasks if self.records.get(task.id, {}).get("status") not in done]


def read_records(file: IO[bytes]) -> dict[str, Record]:
    """The last record of each id. Truncates the file after the last complete line: an interrupted batch may leave a
    part of one, which may end inside a character.

    InputError for a file with any other content, which is left unchanged: it is not a file of results.
    """
    file.seek(0)
    end, records = 0, {}
    for number, line in enumerate(iter(file.readline, b""), 1):
        if not line.endswith(b"\n") and line.startswith(LINE_PREFIX[: len(line)]):
            break
        record = parse_record(line, number, file.name)
        records[record["id"]] = record
        end = file.tell()
    file.seek(end)
    file.truncate()
    return records


def parse_record(line: bytes, number: int, path: str) -> Record:
    """The record of one line."""
    try:
        record: Record = json.loads(line)
        if {type(record[field]) for field in ("id", "digest", "status")} == {str}:
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    shown = truncated_repr(line.decode(errors="replace").strip())
    raise InputError(f"{path}, line {number} is {shown}, not a result; use another file")


def require_distinct(requests: Path, results: Path) -> None:
    """InputError when both paths are the same file."""
    if results.exists() and results.samefile(requests):
        raise InputError(f"{results} is the file of requests; results need another file")


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at a path, locked. InputError while another batch has it open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path} is being written by another batch; wait until it has finished") from error
        yield Journal(file)
