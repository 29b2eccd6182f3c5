"""A batch worker without a model, in a module of its own because every Ray worker process imports it."""

import os
import signal
from pathlib import Path
from typing import Any

from deploy.batch.files import BatchTask
from deploy.batch.worker import BatchWorker
from src.errors import InputError
from src.serving.eta import TimeLimitError
from src.storage.outputs import open_output_store


class FileWorker(BatchWorker):
    """Acts as the input `act` says, writes small files instead of videos, and appends each attempt to `attempts`."""

    def __init__(self, output: str) -> None:
        self.folder = Path(output)
        if (self.folder / "fail to load").exists():
            raise RuntimeError("there are no weights")
        super().__init__(open_output_store(output, None))

    def generate(self, task: BatchTask) -> dict[str, Any]:
        with (self.folder / "attempts").open("a") as attempts:
            attempts.write(f"{task.id}\n")
        mark = self.folder / f"{task.id}.mark"
        first = not mark.exists()
        mark.touch()
        match task.inputs.get("act"):
            case "crash once" if first:
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash for good":
                (self.folder / "fail to load").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise once" if first:
                raise ConnectionError("the store is not reachable")
            case "raise":
                raise ConnectionError("the store is not reachable")
            case "take too long":
                raise TimeLimitError("this video would take about 9 s; 5 s are allowed")
            case "bad input":
                raise InputError("image is bad")
        path = self.folder / f"{task.id}.tmp"
        path.write_bytes(task.id.encode())
        return {"output": self.store.write_file(path, f"{task.id}.mp4")}
