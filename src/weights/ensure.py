"""Make every bundle complete in a folder: check, lock, check again, fetch several at once."""

import errno
import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from src.weights import lock
from src.weights.disk import remove, require_space, tree_bytes
from src.weights.errors import SpaceError, WeightsError
from src.weights.fetch.methods import FetchTask, fetch, hub_partial
from src.weights.fetch.pget import find_pget
from src.weights.install import link_legacy_files, write_marker
from src.weights.manifest import Bundle
from src.weights.progress import LoggedProgress, ProgressCallback, partial_dirs, report_progress
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, is_complete

PARALLEL_BUNDLES = 4
MAX_LISTED = 5
DISK_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY_ERRNO = {errno.EROFS, errno.EACCES, errno.EPERM}

logger = logging.getLogger(__name__)


def ensure(
    folder: Path,
    bundles: Iterable[Bundle],
    *,
    sources: Sources,
    policy: RetryPolicy | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Make every bundle complete below `folder`; fetch what is missing.

    A complete folder is not written to and needs no network. Raises WeightsError, whose message is one sentence.
    """
    bundles = list(bundles)
    with translate_disk_errors(folder):
        if all(is_installed(folder, bundle) for bundle in bundles):
            return
        policy = replace(policy or RetryPolicy(), cancelled=threading.Event())  # of this call only
        fetch_missing(folder, bundles, sources, policy, progress or LoggedProgress())


@contextmanager
def translate_disk_errors(folder: Path) -> Iterator[None]:
    """Raise WeightsError, or SpaceError for a full volume, in place of an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRNO:
            raise SpaceError(
                f"the volume of {folder} is full; free some space and start again, complete files are kept"
            ) from error
        raise WeightsError(f"{error.filename or folder}: {error.strerror or error}") from error


def fetch_missing(
    folder: Path, bundles: list[Bundle], sources: Sources, policy: RetryPolicy, progress: ProgressCallback
) -> None:
    """Fetch what is missing while holding the folder's lock; another process may have fetched it meanwhile."""
    if not is_writable(folder, bundles):
        return
    with lock.exclusive(folder):
        for bundle in bundles:
            clean(folder, bundle)
            link_legacy_files(folder, bundle, inspect_bundle(folder, bundle))
        pget = find_pget()
        tasks = [make_task(folder, bundle, sources, policy, pget) for bundle in bundles]
        tasks = [task for task in tasks if task.required]
        names = ", ".join(task.bundle.name for task in tasks)
        partial_bytes = sum(tree_bytes(partial) for task in tasks for partial in partial_dirs(folder, task.bundle.name))
        require_space(folder, sum(task.disk_bytes for task in tasks) - partial_bytes, names)
        with report_progress(folder, {task.bundle.name: task.disk_bytes for task in tasks}, progress):
            fetch_all(tasks, policy)


def is_writable(folder: Path, bundles: Iterable[Bundle]) -> bool:
    """Create the folder and its lock file. Returns False where that fails but nothing is missing either.

    Raises WeightsError with the names of the missing files where it fails and files are missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / lock.LOCK_FILE).touch()
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNO | READ_ONLY_ERRNO:
            raise
        statuses = [status for bundle in bundles for status in inspect_bundle(folder, bundle)]
        incomplete = [status for status in statuses if status.is_incomplete]
        if not incomplete:
            return False
        if error.errno in DISK_FULL_ERRNO:
            raise
        raise WeightsError(
            f"{folder} cannot be written to ({error.strerror}) and lacks {list_paths(incomplete)}: "
            "fetch the weights elsewhere, or set MODEL_PATH to another volume"
        ) from error
    return True


def list_paths(statuses: list[FileStatus]) -> str:
    """The first few paths, and how many more there are."""
    num_more = len(statuses) - MAX_LISTED
    paths = ", ".join(str(status.path) for status in statuses[:MAX_LISTED])
    return paths + (f" and {num_more} more" if num_more > 0 else "")


def is_installed(folder: Path, bundle: Bundle) -> bool:
    """Whether a bundle is complete in its own folder, with no temporary folder of a killed run beside it."""
    root = bundle_dir(folder, bundle)
    statuses = inspect_bundle(folder, bundle)
    complete = not any(status.is_incomplete or not status.path.is_relative_to(root) for status in statuses)
    return complete and not partial_dirs(folder, bundle.name)


def clean(folder: Path, bundle: Bundle) -> None:
    """Remove the temporary folders of killed runs, except one that the hub client can still use."""
    complete = is_complete(folder, bundle)
    partials = [path for path in partial_dirs(folder, bundle.name) if complete or path != hub_partial(folder, bundle)]
    root = bundle_dir(folder, bundle)
    if complete and partials and root.is_dir() and not (root / bundle.marker).exists():
        write_marker(root, bundle, "a run that was killed before it wrote this file", inspect_bundle(folder, bundle))
    for path in partials:
        remove(path)


def make_task(folder: Path, bundle: Bundle, sources: Sources, policy: RetryPolicy, pget: str | None) -> FetchTask:
    """List the files of a bundle that are missing or broken."""
    statuses = inspect_bundle(folder, bundle)
    return FetchTask(
        bundle=bundle,
        folder=folder,
        required=tuple(status for status in statuses if status.is_incomplete),
        optional=tuple(status for status in statuses if status.state == "missing" and not status.is_incomplete),
        sources=sources,
        policy=policy,
        pget=pget,
    )


def fetch_all(tasks: list[FetchTask], policy: RetryPolicy) -> None:
    """Run the tasks at the same time; when one fails, or the user interrupts, cancel the others."""
    if not tasks:
        return
    with ThreadPoolExecutor(PARALLEL_BUNDLES, thread_name_prefix="weights") as pool:
        futures = [pool.submit(fetch, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            policy.cancelled.set()
            raise
