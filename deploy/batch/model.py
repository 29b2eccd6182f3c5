"""Batch worker with one loaded model."""

import os
import time
from typing import Any

from app.generator import Output
from app.inputs import file_inputs
from deploy.batch.files import BatchTask
from deploy.batch.worker import BatchWorker
from deploy.runner import Runner
from deploy.service import Service
from src.serving import logs
from src.serving.cancellation import RequestContext
from src.storage.fetcher import make_fetcher
from src.storage.outputs import open_output_store
from src.storage.settings import read_settings


class ModelWorker(BatchWorker):
    """Generates videos into a folder or a bucket's prefix."""

    def __init__(self, output: str) -> None:
        os.environ.setdefault("MULTITALK_LOG", "json")
        logs.configure(os.environ)
        self.service = Service(runner=Runner(), fetcher=make_fetcher(read_settings(os.environ)))
        super().__init__(open_output_store(output, self.service.fetcher.bucket))
        self.service.runner.load()

    def generate(self, task: BatchTask) -> dict[str, Any]:
        """Store the video; its address, metrics, and seconds taken."""
        start = time.monotonic()
        names = file_inputs()
        files = {name: task.inputs[name] for name in names if task.inputs.get(name) is not None}
        values = {name: value for name, value in task.inputs.items() if name not in names}

        def deliver(output: Output) -> dict[str, Any]:
            return {"output": self.store.write_file(output.path, f"{task.id}.mp4"), "metrics": output.metrics}

        fields = self.service.process(files, values, RequestContext(request_id=task.id), deliver)
        return {**fields, "seconds": round(time.monotonic() - start, 3)}
