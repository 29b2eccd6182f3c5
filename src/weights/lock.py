"""Inter-process lock: one process at a time downloads into a folder."""

import errno
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from src.weights.errors import WeightsError

LOCK_FILE = ".download.lock"
POLL_S = 0.2
LOG_INTERVAL_S = 60.0
UNSUPPORTED_ERRNO = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait without a limit while another process holds it.

    The operating system releases the lock when its holder dies, so there is no fallback to a lock file that would
    outlive it. Raises WeightsError on a volume without file locks.
    """
    lock = FileLock(folder / LOCK_FILE, poll_interval=POLL_S, fallback_to_soft=False)
    try:
        held = acquire(lock, folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNO:
            raise
        raise WeightsError(
            f"the volume of {folder} has no file locks ({error.strerror}), so concurrent downloads could mix: "
            "download to another volume and copy the result"
        ) from error
    with held:
        yield


def acquire(lock: FileLock, folder: Path) -> AbstractContextManager[object]:
    """Acquire the lock; log once a minute while waiting. Returns a context manager that releases it."""
    timeout_s = 0.0
    while True:
        try:
            return lock.acquire(timeout=timeout_s)
        except Timeout:
            logger.info("waiting for another process that downloads into %s", folder)
            timeout_s = LOG_INTERVAL_S
