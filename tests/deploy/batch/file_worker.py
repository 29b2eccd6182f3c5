"""A worker of a batch that needs no model, in a module of its own: what it imports, every process imports."""

import os
import signal
from pathlib import Path
from typing import Any

from deploy.batch.files import BatchTask
from deploy.batch.worker import BatchWorker
from src.errors import InputError
from src.serving.eta import TimeLimitError
from src.storage.output_store import open_output_store


class Scribe(BatchWorker):
    """Does as the inputs say, and writes down what it did: a line for each request begun."""

    def __init__(self, output: str) -> None:
        self.folder = Path(output)
        super().__init__(open_output_store(output, None))

    def ready(self) -> None:
        if (self.folder / "no workers").exists():
            raise RuntimeError("there are no weights")

    def make(self, task: BatchTask) -> dict[str, Any]:
        with (self.folder / "begun").open("a") as begun:
            begun.write(f"{task.id}\n")
        marks = self.folder / f"{task.id}.mark"
        first = not marks.exists()
        marks.touch()
        match task.inputs.get("act"):
            case "die once" if first:
                os.kill(os.getpid(), signal.SIGKILL)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail once" if first:
                raise ConnectionError("the store is away")
            case "fail":
                raise ConnectionError("the store is away")
            case "take too long":
                raise TimeLimitError("this video would take about 9 s; 5 s are allowed")
            case "refuse":
                raise InputError("image is bad")
        path = self.folder / f"{task.id}.tmp"
        path.write_bytes(task.id.encode())
        return {"output": self.shelf.put(path, f"{task.id}.mp4")}
