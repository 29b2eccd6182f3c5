"""Base class of the batch workers: generate one video after another and store each with its record."""

import json
import logging
from typing import Any

import ray

from deploy.batch.files import BatchTask, Record
from deploy.errors import CLIENT_ERRORS
from src.errors import InputError
from src.storage.outputs import OutputStore

logger = logging.getLogger(__name__)


class BatchWorker:
    """Runs as a Ray actor. Stores `ID.mp4`, then `ID.json`, so that a stored record implies a complete video.

    The constructor of a subclass loads the model; an exception there means that the worker can never serve.
    """

    def __init__(self, store: OutputStore) -> None:
        self.store = store

    def generate(self, task: BatchTask) -> dict[str, Any]:
        """Store the video and return its fields of the record. Raises CLIENT_ERRORS for what no retry can fix."""
        raise NotImplementedError

    def process(self, task: BatchTask) -> Record:
        """The record of a request: the stored one if an interrupted batch has left it, else that of a new video.

        Raises whatever a retry may fix.
        """
        name = f"{task.id}.json"
        try:
            record = read_stored_record(self.store, name)
            if record is not None and record["digest"] == task.digest:
                return record
            if self.store.has_file(video := f"{task.id}.mp4"):
                logger.warning("%s is in --output without the record of a result; it is replaced", video)
            record = {"id": task.id, "digest": task.digest, "status": "succeeded", **self.generate(task)}
        except CLIENT_ERRORS as error:
            return {"id": task.id, "digest": task.digest, "status": "failed", "error": str(error)}
        self.store.write_text(json.dumps(record), name)
        return record

    @ray.method(retry_exceptions=True)
    def run(self, task: BatchTask) -> Record:
        """`process` as an actor method: adds the number of attempts, which only Ray knows across restarts."""
        attempt = ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number()
        return {**self.process(task), "attempts": attempt + 1}


def read_stored_record(store: OutputStore, name: str) -> Record | None:
    """The record that an earlier batch stored, None without one. InputError for a file of another origin."""
    try:
        text = store.read_text(name)
        if text is None:
            return None
        record: Record = json.loads(text)
        if isinstance(record, dict) and isinstance(record.get("digest"), str) and f"{record.get('id')}.json" == name:
            return record
    except (ValueError, RecursionError):
        pass
    raise InputError(
        f"--output holds a file {name} that is not the record of a result; another folder or another id is needed"
    )
