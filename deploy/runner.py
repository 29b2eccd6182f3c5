"""One shared `VideoGenerator` for a server: loaded on first use, one request at a time, from any thread."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.generator import Output, VideoGenerator
from src.serving.cancellation import RequestContext, request_context
from src.serving.temp_dirs import remove_orphans

LOCK_POLL_S = 0.05


class Runner:
    """Serializes requests. `failure` says why the last attempt to load the model failed, None after a success."""

    def __init__(self) -> None:
        self.generator: VideoGenerator | None = None
        self.failure: str | None = None
        self.lock = threading.Lock()

    def load(self) -> VideoGenerator:
        """The generator, loaded and warmed up on the first call. Raises RuntimeError or ValueError, which says why it
        cannot be loaded; the next call tries again."""
        if self.generator is None:
            try:
                remove_orphans()
                generator = VideoGenerator.from_environment(os.environ)
                generator.warm_up()
            except Exception as error:
                self.failure = str(error)
                raise
            generator.health.watch()
            self.failure, self.generator = None, generator
        return self.generator

    def run(self, inputs: Mapping[str, Any], output_dir: Path, context: RequestContext) -> Output:
        """Make one video in `output_dir`, after the requests that came before.

        Raises CLIENT_ERRORS for what the caller can correct, and CancelledError when `context` is cancelled; then no
        file is left and the model is ready for the next request.
        """
        with self.exclusive(context), request_context(context):
            output = self.load().generate(inputs, output_dir)
        shape = {"speech_shape": list(output.speech_shape)} if output.speech_shape else {}
        return replace(output, metrics=output.metrics | shape)

    @contextmanager
    def exclusive(self, context: RequestContext) -> Iterator[None]:
        """Hold the lock; CancelledError when the request was cancelled while it waited."""
        while not self.lock.acquire(timeout=LOCK_POLL_S):
            context.raise_if_cancelled()
        try:
            context.raise_if_cancelled()
            yield
        finally:
            self.lock.release()
