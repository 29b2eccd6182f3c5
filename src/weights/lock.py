"""One process at a time downloads into a folder, which several machines may share."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from src.weights.errors import WeightsError

NAME = ".download.lock"
POLL_S = 0.2
REMIND_S = 60.0
UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for as long as another process has it.

    The operating system lets go of it when its holder dies. WeightsError on a volume without locks.
    """
    with (folder / NAME).open("a+") as file:
        wait(file, folder)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def wait(file: IO[str], folder: Path) -> None:
    """Take the lock; say every minute who has it."""
    said = -REMIND_S
    while not try_lock(file, folder):
        if time.monotonic() - said >= REMIND_S:
            said = time.monotonic()
            file.seek(0)
            logger.info("waiting for %s, which downloads into %s", file.read().strip() or "another process", folder)
        time.sleep(POLL_S)


def try_lock(file: IO[str], folder: Path) -> bool:
    """Try to take the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            raise WeightsError(
                f"{folder} is on a volume without file locks ({error.strerror}), where two downloads could mix: "
                "download to another volume and copy the result"
            ) from error
        raise
    return True
