"""What one worker of a batch does, whatever makes its videos: one request after another, each kept on a shelf."""

import json
from typing import Any

from deploy.batch.files import BatchTask, Record
from deploy.errors import CLIENT_ERRORS
from src.storage.output_store import OutputStore


class BatchWorker:
    """Puts on the shelf what `make` makes, and then its record: `ID.mp4`, `ID.json`."""

    def __init__(self, shelf: OutputStore) -> None:
        self.shelf = shelf

    def ready(self) -> None:
        """Return once requests can be served; raise when they never can."""
        raise NotImplementedError

    def make(self, task: BatchTask) -> dict[str, Any]:
        """Put the video on the shelf; what to say of it. Raises CLIENT_ERRORS for what no other try mends."""
        raise NotImplementedError

    def work(self, task: BatchTask) -> Record:
        """The record of a request that has ended, perhaps in a batch that crashed before it wrote it down.

        Raises what may pass.
        """
        name = f"{task.id}.json"
        if (text := self.shelf.text(name)) is not None:
            record: Record = json.loads(text)
            if record["digest"] == task.digest:
                return record
        try:
            record = {"id": task.id, "digest": task.digest, "status": "succeeded", **self.make(task)}
        except CLIENT_ERRORS as error:
            return {"id": task.id, "digest": task.digest, "status": "failed", "error": str(error)}
        self.shelf.put_text(json.dumps(record), name)
        return record
