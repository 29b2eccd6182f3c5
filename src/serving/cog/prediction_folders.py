"""The folders that Cog makes for its predictions, `/tmp/coglet/predictions/ID`: made before Cog, deleted after it.

Cog never deletes them, and a prediction whose folder it cannot make blocks it for ever, so that the gateway makes the
folder first. Each one is locked while its prediction runs: see `src.serving.temp_dirs`.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from src.serving.temp_dirs import try_lock

FOLDER = Path("/tmp/coglet/predictions")
"""Cog's own constant: it does not follow TMPDIR."""
PARTS = ("inputs", "outputs")
MAX_AGE_S = 1800.0
"""Age from which an unlocked folder is deleted although another Cog server runs on this machine."""
COG_SERVER = b"cog.server.http"


class FolderInUseError(RuntimeError):
    """Another server on this machine runs a prediction with this id."""


class PredictionFolders:
    """The folders of the running predictions."""

    def __init__(self, folder: Path = FOLDER, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.clock = clock
        self.first_seen: dict[tuple[str, int], float] = {}
        self.fds: dict[str, int] = {}
        self.claims: Counter[str] = Counter()

    def claim(self, prediction_id: str) -> None:
        """Make and lock the folder of a prediction; each claim needs a release.

        Raises OSError if it cannot be made, FolderInUseError if another process has locked it.
        """
        if prediction_id not in self.fds:
            path = self.folder / prediction_id
            for part in PARTS:
                (path / part).mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDONLY)
            if not try_lock(fd):
                os.close(fd)
                raise FolderInUseError(f"another server on this machine runs a prediction with the id {prediction_id}")
            self.fds[prediction_id] = fd
        self.claims[prediction_id] += 1

    def release(self, prediction_id: str) -> None:
        """Delete the folder after its last claim."""
        self.claims[prediction_id] -= 1
        if self.claims[prediction_id] <= 0:
            del self.claims[prediction_id]
            shutil.rmtree(self.folder / prediction_id, ignore_errors=True)
            os.close(self.fds.pop(prediction_id))

    def remove_orphans(self) -> None:
        """Delete the folders of ended processes. A Cog server without the gateway locks none of its folders: while one
        runs, only those are deleted that have been there for MAX_AGE_S, by this process's own clock."""
        now, found = self.clock(), {}
        min_age_s = MAX_AGE_S if other_server_runs() else 0.0
        for path in self.folder.glob("*"):
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    key = (path.name, os.fstat(fd).st_ino)
                    found[key] = self.first_seen.get(key, now)
                    if now - found[key] >= min_age_s and try_lock(fd, or_unsupported=False):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(fd)
        self.first_seen = found


def other_server_runs() -> bool:
    """Whether a Cog server that has no gateway runs on this machine; True where that cannot be found out."""
    if not Path("/proc/self/cmdline").exists():
        return True
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if COG_SERVER in path.read_bytes():
                return True
    return False
