"""The web form served from this machine: `python -m deploy.web.local`, on HOST and PORT."""

import logging
import os
import shutil
import signal
import tempfile
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

from deploy.runner import Runner
from deploy.service import Service, error_message, job_dir, log_metrics
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
from src.serving import logs
from src.serving.cancellation import CancelledError, RequestContext
from src.storage.fetcher import make_fetcher
from src.storage.settings import number, read_settings

logger = logging.getLogger("deploy.web.app")

RESULT_SECONDS = 3600.0
SWEEP_S = 60.0
"""How often expired results are looked for, whether anybody asks or not."""
MAX_PARALLEL_DOWNLOADS = 4
"""Calls whose files may come at the same time while one works, so that a slow host holds up its own call only."""
MAX_QUEUED = 100
MAX_EXPIRED_IDS = 100_000
"""Ids of expired calls that are still told from unknown ones."""
CANCELED = "canceled"


@dataclass(slots=True, kw_only=True)
class Call:
    """A request, what is known of it, and when that was settled."""

    follower: RequestContext = field(default_factory=lambda: RequestContext(request_id="new"))
    state: Working | Finished | Failed = field(default_factory=Working)
    settled: float | None = None


class LocalBackend:
    """One warm model; calls wait for their turn. Results lie in a folder until they expire, `keep_s` after the end."""

    def __init__(
        self, service: Service, folder: Path, *, keep_s: float = RESULT_SECONDS, most_waiting: int = MAX_QUEUED
    ) -> None:
        self.service = service
        self.folder = folder
        self.keep_s = keep_s
        self.most_waiting = most_waiting
        self.calls: dict[str, Call] = {}
        self.expired: OrderedDict[str, None] = OrderedDict()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(MAX_PARALLEL_DOWNLOADS, thread_name_prefix="web")
        self.closed = threading.Event()
        threading.Thread(target=self.keep_sweeping, name="sweep", daemon=True).start()

    def submit(self, talk: SubmitRequest) -> str:
        """Put a call in the queue."""
        call_id = uuid4().hex
        with self.lock:
            self.expire()
            waiting = sum(call.settled is None for call in self.calls.values())
            if waiting >= self.most_waiting:
                raise QueueFullError(f"{waiting} calls are waiting; at most {self.most_waiting} may")
            call = Call()
            call.follower = RequestContext(request_id=call_id, on_progress=lambda text: self.tell(call, text))
            self.calls[call_id] = call
        self.pool.submit(self.work, call_id, call, talk)
        return call_id

    def tell(self, call: Call, progress: str) -> None:
        """Note how far a call is."""
        with self.lock:
            if call.settled is None:
                call.state = Working(progress=progress)

    def work(self, call_id: str, call: Call, talk: SubmitRequest) -> None:
        """Make the video."""
        try:
            if call.follower.cancelled.is_set():
                return
            with job_dir(call.follower) as folder:
                output = self.service.make(talk.media, {"prompt": talk.prompt}, folder, call.follower)
                log_metrics(output)
                video = self.folder / f"{call_id}.mp4"
                shutil.move(output.path, video)
            self.settle(call, Finished(video=video))
        except CancelledError:
            self.settle(call, Failed(message=CANCELED))
        except Exception as error:  # noqa: BLE001 - the caller is told
            self.settle(call, Failed(message=error_message(error)))

    def settle(self, call: Call, state: Finished | Failed) -> None:
        """The end of a call, whichever comes first."""
        with self.lock:
            if call.settled is None:
                call.state, call.settled = state, time.monotonic()
            elif isinstance(state, Finished) and isinstance(state.video, Path):
                state.video.unlink(missing_ok=True)

    def result(self, call_id: str) -> Working | Finished | Failed:
        """How a call stands."""
        return self.find(call_id).state

    def cancel(self, call_id: str) -> None:
        """Stop a call at its next step; one that has ended stays as it is."""
        call = self.find(call_id)
        call.follower.cancelled.set()
        self.settle(call, Failed(message=CANCELED))

    def find(self, call_id: str) -> Call:
        """A call that is known and has not expired."""
        with self.lock:
            self.expire()
            if call_id in self.expired:
                raise ExpiredError(call_id)
            if call_id not in self.calls:
                raise UnknownCallError(call_id)
            return self.calls[call_id]

    def keep_sweeping(self) -> None:
        """Until this is closed."""
        while not self.closed.wait(min(self.keep_s, SWEEP_S)):
            with self.lock:
                self.expire()

    def expire(self) -> None:
        """Throw away what was settled too long ago. The lock is held."""
        now = time.monotonic()
        for call_id, call in list(self.calls.items()):
            if call.settled is not None and now - call.settled > self.keep_s:
                del self.calls[call_id]
                self.expired[call_id] = None
                (self.folder / f"{call_id}.mp4").unlink(missing_ok=True)
        while len(self.expired) > MAX_EXPIRED_IDS:
            self.expired.popitem(last=False)

    def close(self) -> None:
        """Stop everything, and wait for that."""
        self.closed.set()
        with self.lock:
            calls = list(self.calls.values())
        for call in calls:
            call.follower.cancelled.set()
        self.pool.shutdown(cancel_futures=True)


def main() -> None:
    """Load the model and serve the form."""
    os.environ.setdefault("MULTITALK_LOG", "json")
    logs.configure(os.environ)
    service = Service(engine=Runner(), inputs=make_fetcher(read_settings(os.environ)))
    keep_s = number(os.environ, "WEB_RESULT_SECONDS", RESULT_SECONDS)
    service.engine.load()
    with (
        harmless_signals(),
        tempfile.TemporaryDirectory(prefix="multitalk-web-") as folder,
        closing(LocalBackend(service, Path(folder), keep_s=keep_s)) as backend,
    ):
        serve(backend)


def serve(backend: LocalBackend) -> None:
    """Until a signal ends it. Lines go through our log; uvicorn would also write from which address somebody asked."""
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    uvicorn.run(
        make_app(backend, read_credentials(os.environ)), host=host, port=port, log_config=None, access_log=False
    )


@contextmanager
def harmless_signals() -> Iterator[None]:
    """uvicorn ends in order when it is told to, and then raises the same signal again, before we have tidied up."""
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
