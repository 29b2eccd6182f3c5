"""A worker of a batch with one warm model."""

import os
import time
from typing import Any

from deploy.batch.files import Task
from deploy.batch.worker import Worker
from deploy.runner import Engine
from deploy.service import Service, measured, workplace
from src.serving import logs
from src.serving.cancellation import Follower
from src.storage.fetcher import make_inputs
from src.storage.settings import read_settings
from src.storage.output_store import find_shelf


class ModelWorker(Worker):
    """Makes videos."""

    def __init__(self, output: str) -> None:
        os.environ.setdefault("MULTITALK_LOG", "json")
        logs.configure(os.environ)
        self.service = Service(engine=Engine(), inputs=make_inputs(read_settings(os.environ)))
        super().__init__(find_shelf(output, self.service.inputs.bucket))

    def ready(self) -> None:
        """Load the model."""
        self.service.engine.load()

    def make(self, task: Task) -> dict[str, Any]:
        """The video on the shelf, and what was measured."""
        start = time.monotonic()
        files = self.service.engine.files
        media = {name: task.inputs[name] for name in files if task.inputs.get(name) is not None}
        values = {name: value for name, value in task.inputs.items() if name not in files}
        follower = Follower(request=task.id)
        with workplace(follower) as folder:
            output = self.service.make(media, values, folder, follower)
            measured(output)
            address = self.shelf.put(output.path, f"{task.id}.mp4")
        return {"output": address, "metrics": dict(output.metrics), "seconds": round(time.monotonic() - start, 3)}
