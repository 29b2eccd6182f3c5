"""How far downloads are, seen from the disk: whoever writes, the partial folders grow."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from src.weights.disk import tree_bytes

POLL_S = 0.25
LOG_S = 20.0
# Called with a bundle's name, the bytes on the disk, and about how many there will be.
ProgressCallback = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


class LoggedProgress:
    """A line for the operator now and then."""

    def __init__(self, every_s: float = LOG_S) -> None:
        self.every_s = every_s
        self.said: dict[str, float] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said.setdefault(name, now) >= self.every_s:
            self.said[name] = now
            logger.info("%s: %.1f of about %.1f GB", name, done / 1e9, max(done, total) / 1e9)


@contextmanager
def report_progress(folder: Path, totals: Mapping[str, int], progress: ProgressCallback) -> Iterator[None]:
    """Report on the bundles named in `totals` (bytes), while the body runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            for name, total in totals.items():
                if done := sum(tree_bytes(partial) for partial in partial_dirs(folder, name)):
                    progress(name, done, total)

    watcher = threading.Thread(target=watch, name="weights-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def partial_dirs(folder: Path, name: str) -> list[Path]:
    """The temporary folders of a bundle, beside its place."""
    return [path for path in folder.glob(f".{name}.*partial") if path.is_dir()]
