"""Leaving every bundle complete in a folder: look, lock, look again, fetch several at once."""

import errno
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from src.weights import lock
from src.weights.disk import remove, require_space, tree_bytes
from src.weights.errors import SpaceError, WeightsError
from src.weights.fetch.methods import FetchTask, fetch
from src.weights.install import link_legacy_files, write_marker
from src.weights.manifest import Bundle
from src.weights.progress import LoggedProgress, ProgressCallback, partial_dirs, report_progress
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, is_complete

PARALLEL_BUNDLES = 4
MAX_NAMED = 5
DISK_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY_ERRNO = {errno.EROFS, errno.EACCES, errno.EPERM}

logger = logging.getLogger(__name__)


def ensure(
    folder: Path,
    bundles: Iterable[Bundle],
    *,
    sources: Sources,
    patience: RetryPolicy | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Leave every bundle complete below `folder`; fetch what is not there.

    A complete folder is not written to, and needs no network. Raises WeightsError in one sentence.
    """
    bundles = list(bundles)
    try:
        if all(is_settled(folder, bundle) for bundle in bundles):
            return
        patience = replace(patience or RetryPolicy(), stop=threading.Event())  # which ends this run, not the next
        fetch_missing(folder, bundles, sources, patience, progress or LoggedProgress())
    except OSError as error:
        if error.errno in DISK_FULL_ERRNO:
            raise SpaceError(
                f"the volume of {folder} is full; make room and start again, what is there is kept"
            ) from error
        raise WeightsError(f"{error.filename or folder}: {error.strerror or error}") from error


def fetch_missing(
    folder: Path, bundles: list[Bundle], sources: Sources, patience: RetryPolicy, progress: ProgressCallback
) -> None:
    """Fetch under the folder's lock; another process may have done it while we waited."""
    if not prepared(folder, bundles):
        return
    with lock.exclusive(folder):
        for bundle in bundles:
            clean(folder, bundle)
            link_legacy_files(folder, bundle, inspect_bundle(folder, bundle))
        tasks = [task for bundle in bundles if (task := make_task(folder, bundle, sources, patience)).lacking]
        there = sum(tree_bytes(left) for task in tasks for left in partial_dirs(folder, task.bundle.name))
        require_space(folder, sum(task.bytes for task in tasks) - there, ", ".join(t.bundle.name for t in tasks))
        with report_progress(folder, {task.bundle.name: task.bytes for task in tasks}, progress):
            fetch_all(tasks, patience)


def prepared(folder: Path, bundles: Iterable[Bundle]) -> bool:
    """Whether the folder is there, or could be made, and can be written to.

    Where it cannot, files in the places of older packages will do as they are; WeightsError names what is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / lock.NAME).touch()
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNO | READ_ONLY_ERRNO:
            raise
        lacking = [found for bundle in bundles for found in inspect_bundle(folder, bundle) if found.lacking]
        if not lacking:
            return False
        if error.errno in DISK_FULL_ERRNO:
            raise
        raise WeightsError(
            f"{folder} cannot be written to ({error.strerror}) and lacks {listing(lacking)}: "
            "fetch the weights elsewhere, or set MODEL_PATH to another volume"
        ) from error
    return True


def listing(findings: list[FileStatus]) -> str:
    """The first few of them, and how many more there are."""
    more = len(findings) - MAX_NAMED
    return ", ".join(str(found.path) for found in findings[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def is_settled(folder: Path, bundle: Bundle) -> bool:
    """Whether a bundle is complete, all of it in its own folder, and nothing of a killed run is left."""
    place = bundle_dir(folder, bundle)
    findings = inspect_bundle(folder, bundle)
    away = any(found.lacking or not found.path.is_relative_to(place) for found in findings)
    return not away and not partial_dirs(folder, bundle.name)


def clean(folder: Path, bundle: Bundle) -> None:
    """Remove what killed runs left, but for what can be resumed and is still needed."""
    complete = is_complete(folder, bundle)
    resumable = () if complete else (f".{bundle.name}.http.partial", f".{bundle.name}.hub.partial")
    left = [path for path in partial_dirs(folder, bundle.name) if path.name not in resumable]
    place = bundle_dir(folder, bundle)
    if complete and left and place.is_dir() and not (place / bundle.marker).exists():
        write_marker(place, bundle, "a run that was killed at its very end", inspect_bundle(folder, bundle))
    for path in left:
        remove(path)


def make_task(folder: Path, bundle: Bundle, sources: Sources, patience: RetryPolicy) -> FetchTask:
    """What is to be done for a bundle."""
    findings = inspect_bundle(folder, bundle)
    lacking = tuple(found for found in findings if found.lacking)
    absent = tuple(found for found in findings if found.state == "missing" and not found.lacking)
    return FetchTask(bundle=bundle, folder=folder, lacking=lacking, absent=absent, sources=sources, patience=patience)


def fetch_all(tasks: list[FetchTask], patience: RetryPolicy) -> None:
    """Run the tasks at the same time; when one fails, or the user interrupts, the others are stopped."""
    if not tasks:
        return
    with ThreadPoolExecutor(PARALLEL_BUNDLES, thread_name_prefix="weights") as pool:
        running = [pool.submit(fetch, task) for task in tasks]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            patience.stop.set()
            raise
