"""Download progress, measured by the size of the partial folders on disk."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from src.weights.disk import tree_bytes

POLL_S = 0.25
LOG_INTERVAL_S = 20.0
# Called with a bundle's name, the bytes on disk, and the approximate total.
ProgressCallback = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


class LoggedProgress:
    """Logs the progress of each bundle at most every `interval_s` seconds."""

    def __init__(self, interval_s: float = LOG_INTERVAL_S) -> None:
        self.interval_s = interval_s
        self.logged_at: dict[str, float] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.logged_at.setdefault(name, now) >= self.interval_s:
            self.logged_at[name] = now
            logger.info("%s: %.1f of about %.1f GB", name, done / 1e9, max(done, total) / 1e9)


@contextmanager
def report_progress(folder: Path, totals: Mapping[str, int], progress: ProgressCallback) -> Iterator[None]:
    """Call `progress` for the bundles named in `totals` (bytes) while the body runs."""
    finished = threading.Event()

    def poll() -> None:
        while not finished.wait(POLL_S):
            for name, total in totals.items():
                if done := sum(tree_bytes(partial) for partial in partial_dirs(folder, name)):
                    progress(name, done, total)

    thread = threading.Thread(target=poll, name="weights-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def partial_dirs(folder: Path, name: str) -> list[Path]:
    """The temporary folders of a bundle, beside its final folder."""
    return [path for path in folder.glob(f".{name}.*partial") if path.is_dir()]
