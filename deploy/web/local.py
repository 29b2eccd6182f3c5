"""Serve the HTTP API from one machine, with a queue in this process: `python -m deploy.web`, on HOST and PORT."""

import os
import shutil
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import uvicorn

from app.generator import Output
from deploy.runner import Runner
from deploy.service import Service, error_message
from deploy.web.app import (
    ExpiredError,
    Failed,
    Finished,
    QueueFullError,
    SubmitRequest,
    UnknownCallError,
    Working,
    make_app,
    read_credentials,
)
from src.environment import read_number
from src.serving import logs
from src.serving.cancellation import CancelledError, RequestContext
from src.serving.temp_dirs import owned_dir
from src.storage.fetcher import make_fetcher
from src.storage.settings import read_settings

RESULT_SECONDS = 3600.0
CLEANUP_INTERVAL_S = 60.0
"""How often expired results are deleted while no requests come."""
MAX_PARALLEL_DOWNLOADS = 4
"""Calls whose files may be fetched at the same time, so that a slow host delays only its own call."""
MAX_QUEUED = 100
MAX_EXPIRED_IDS = 100_000
"""Ids of expired calls that are kept to answer 410 instead of 404."""
CANCELED = "canceled"


@dataclass(slots=True, kw_only=True)
class Call:
    """A submitted request: its state, and when it finished (`time.monotonic()`)."""

    context: RequestContext = field(default_factory=lambda: RequestContext(request_id="new"))
    state: Working | Finished | Failed = field(default_factory=Working)
    finished_at: float | None = None


class LocalBackend:
    """Queues calls for one model. Results are files in a folder, deleted `retention_s` after the call finished."""

    def __init__(
        self, service: Service, folder: Path, *, retention_s: float = RESULT_SECONDS, max_queued: int = MAX_QUEUED
    ) -> None:
        self.service = service
        self.folder = folder
        self.retention_s = retention_s
        self.max_queued = max_queued
        self.calls: dict[str, Call] = {}
        self.expired: OrderedDict[str, None] = OrderedDict()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(MAX_PARALLEL_DOWNLOADS, thread_name_prefix="web")
        self.closed = threading.Event()
        threading.Thread(target=self.run_cleanup, name="cleanup", daemon=True).start()

    def submit(self, request: SubmitRequest) -> str:
        """Add a call to the queue; returns its id. Raises QueueFullError."""
        call_id = uuid4().hex
        with self.lock:
            self.delete_expired()
            unfinished = sum(call.finished_at is None for call in self.calls.values())
            if unfinished >= self.max_queued:
                raise QueueFullError(f"{unfinished} calls are queued; at most {self.max_queued} are allowed")
            call = Call()
            call.context = RequestContext(
                request_id=call_id, on_progress=lambda message: self.set_progress(call, message)
            )
            self.calls[call_id] = call
        self.pool.submit(self.run, call_id, call, request)
        return call_id

    def set_progress(self, call: Call, message: str) -> None:
        """Progress callback of a call."""
        with self.lock:
            if call.finished_at is None:
                call.state = Working(progress=message)

    def run(self, call_id: str, call: Call, request: SubmitRequest) -> None:
        """Generate the video of a call."""
        video = self.folder / f"{call_id}.mp4"

        def deliver(output: Output) -> None:
            shutil.move(output.path, video)

        try:
            if call.context.cancelled.is_set():
                return
            values = {"prompt": request.prompt, **request.lists}
            self.service.process(request.files, values, call.context, deliver)
            self.finish(call, Finished(video=video))
        except CancelledError:
            self.finish(call, Failed(message=CANCELED))
        except Exception as error:  # noqa: BLE001 - returned to the caller
            self.finish(call, Failed(message=error_message(error)))

    def finish(self, call: Call, state: Finished | Failed) -> None:
        """Set the final state of a call. The first one counts; the video of a later one is deleted."""
        with self.lock:
            if call.finished_at is None:
                call.state, call.finished_at = state, time.monotonic()
            elif isinstance(state, Finished) and isinstance(state.video, Path):
                state.video.unlink(missing_ok=True)

    def result(self, call_id: str) -> Working | Finished | Failed:
        """The state of a call. Raises UnknownCallError, ExpiredError."""
        return self.get_call(call_id).state

    def cancel(self, call_id: str) -> None:
        """Cancel a call at its next step; a finished one keeps its state. Raises UnknownCallError, ExpiredError."""
        call = self.get_call(call_id)
        call.context.cancelled.set()
        self.finish(call, Failed(message=CANCELED))

    def get_call(self, call_id: str) -> Call:
        """The call with an id. Raises UnknownCallError, ExpiredError."""
        with self.lock:
            self.delete_expired()
            if call_id in self.expired:
                raise ExpiredError(call_id)
            if call_id not in self.calls:
                raise UnknownCallError(call_id)
            return self.calls[call_id]

    def run_cleanup(self) -> None:
        """Delete expired results periodically until the backend is closed."""
        while not self.closed.wait(min(self.retention_s, CLEANUP_INTERVAL_S)):
            with self.lock:
                self.delete_expired()

    def delete_expired(self) -> None:
        """Delete the results of calls that finished more than `retention_s` ago. The lock must be held."""
        now = time.monotonic()
        for call_id, call in list(self.calls.items()):
            if call.finished_at is not None and now - call.finished_at > self.retention_s:
                del self.calls[call_id]
                self.expired[call_id] = None
                (self.folder / f"{call_id}.mp4").unlink(missing_ok=True)
        while len(self.expired) > MAX_EXPIRED_IDS:
            self.expired.popitem(last=False)

    def close(self) -> None:
        """Cancel every call and wait until the threads have ended."""
        self.closed.set()
        with self.lock:
            calls = list(self.calls.values())
        for call in calls:
            call.context.cancelled.set()
        self.pool.shutdown(cancel_futures=True)


def main() -> None:
    """Load the model and serve the HTTP API."""
    os.environ.setdefault("MULTITALK_LOG", "json")
    logs.configure(os.environ)
    service = Service(runner=Runner(), fetcher=make_fetcher(read_settings(os.environ)))
    retention_s = read_number(os.environ, "WEB_RESULT_SECONDS", RESULT_SECONDS)
    service.runner.load()
    with (
        ignore_signals(),
        owned_dir("web-") as folder,
        closing(LocalBackend(service, folder, retention_s=retention_s)) as backend,
    ):
        serve(backend)


def serve(backend: LocalBackend) -> None:
    """Serve until a signal. uvicorn's access log is off, because it contains the clients' addresses."""
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    app = make_app(backend, read_credentials(os.environ), backend.service.fetcher.limits)
    uvicorn.run(app, host=host, port=port, log_config=None, access_log=False)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT: uvicorn re-raises the one that it has handled, which would skip our cleanup."""
    previous = {which: signal.signal(which, lambda *_: None) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
