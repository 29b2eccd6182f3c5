"""Download files of a Hugging Face Hub repository, each branch pinned to one commit, with huggingface_hub."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from src.errors import RETRYABLE_STATUS, TransientError
from src.weights.errors import CorruptDownloadError, SourceError, WeightsError
from src.weights.integrity import sha256
from src.weights.manifest import File, HubRepo
from src.weights.retry import RetryPolicy

PARALLEL_FILES = 4

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file as the hub lists it. The hash is known for large files only."""

    path: str
    commit: str
    bytes: int
    sha256: str | None


def resolve_files(repo: HubRepo, files: Iterable[File], policy: RetryPolicy) -> list[HubFile]:
    """Look up every file, or its first available alternative; missing optional files are left out.

    Raises SourceError for a missing required file.
    """
    listings: dict[str, dict[str, HubFile]] = {}
    resolved = []
    for file in files:
        candidates = []
        for path in file.paths:
            revision = (file.revision if path == file.path else None) or repo.revision
            if revision not in listings:
                listings[revision] = list_files(repo, revision, policy)
            candidates.append(listings[revision].get(path))
        if hub_file := next((candidate for candidate in candidates if candidate is not None), None):
            resolved.append(hub_file)
        elif not file.optional:
            raise SourceError(f"{repo.repository} at {repo.revision} has no {' or '.join(file.paths)}")
    return resolved


def list_files(repo: HubRepo, revision: str, policy: RetryPolicy) -> dict[str, HubFile]:
    """The files of a repository at a revision, by path; none if a file's own revision does not exist any more."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    request = partial(HfApi(endpoint=endpoint()).model_info, repo.repository, revision=revision, files_metadata=True)
    try:
        info = with_retry(partial(request, timeout=policy.read_s), repo, policy)
    except RevisionNotFoundError as error:
        if revision != repo.revision:
            return {}
        raise SourceError(f"{repo.repository} has no revision {revision}") from error
    return {
        file.rfilename: HubFile(
            path=file.rfilename,
            commit=str(info.sha),
            bytes=file.size or 0,
            sha256=file.lfs.sha256 if file.lfs else None,
        )
        for file in info.siblings or ()
    }


def download(repo: HubRepo, files: list[HubFile], tree: Path, policy: RetryPolicy) -> None:
    """Download files into `tree` and check size and hash; complete files of an earlier run are kept.

    Raises CorruptDownloadError for a file of another size or hash than the hub lists.
    """
    expected = {tree / file.path for file in files}
    for path in list(tree.rglob("*")):  # among them .incomplete files, which have random names and cannot be resumed
        if path.is_file() and path not in expected and path.suffix != ".metadata":
            path.unlink()
    for commit in {file.commit: None for file in files}:
        paths = [file.path for file in files if file.commit == commit]
        with_retry(partial(download_commit, repo, commit, paths, tree, policy), repo, policy)
    for file in files:
        path = tree / file.path
        if path.stat().st_size != file.bytes or (file.sha256 and sha256(path) != file.sha256):
            path.unlink()
            raise CorruptDownloadError(f"sent {file.path} with another size or hash than listed")
    shutil.rmtree(tree / ".cache", ignore_errors=True)


def download_commit(repo: HubRepo, commit: str, paths: list[str], tree: Path, policy: RetryPolicy) -> None:
    """Download files of one commit. Raises TransientError if the client returns without all of them."""
    from huggingface_hub import snapshot_download

    policy.raise_if_cancelled()
    snapshot_download(
        repo.repository,
        revision=commit,
        allow_patterns=paths,
        local_dir=tree,
        endpoint=endpoint(),
        max_workers=PARALLEL_FILES,
        tqdm_class=cancellable_tqdm(policy),
    )
    # Where the hub cannot be reached, the client is content with an existing folder.
    if missing := [path for path in paths if not (tree / path).is_file()]:
        raise TransientError(f"{repo.repository}: {', '.join(missing)} did not arrive")


def with_retry(call: Callable[[], T], repo: HubRepo, policy: RetryPolicy) -> T:
    """Call the hub client, and retry transient faults. Raises SourceError in one sentence."""
    from huggingface_hub.errors import RevisionNotFoundError

    def attempt() -> T:
        try:
            return call()
        except (RevisionNotFoundError, TransientError, WeightsError):
            raise
        except Exception as error:
            if (translated := translate(error, repo)) is None:
                raise
            raise translated from error

    try:
        return policy.retrying()(attempt)
    except TransientError as error:
        policy.raise_if_cancelled()
        raise SourceError(f"{error}, after {policy.attempts} attempts") from error


def translate(error: Exception, repo: HubRepo) -> TransientError | SourceError | None:
    """Convert an HTTP or network error of the client to one of ours; None for other errors, such as a full disk."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return SourceError("HF_HUB_OFFLINE forbids access to the hub")
    status = getattr(getattr(error, "response", None), "status_code", None)
    is_network = isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError))
    # hf_xet raises RuntimeError; the client, OSError without a number for an unreachable hub or a truncated file.
    is_client = isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)
    if status in RETRYABLE_STATUS or is_network or (is_client and status is None):
        return TransientError(f"{repo.repository}: {first_line(error)}")
    if status in (401, 403):
        return SourceError(f"access to {repo.repository} was denied (HTTP {status}): set HF_TOKEN, or check the name")
    return SourceError(f"{repo.repository}: {first_line(error)}") if status else None


def first_line(error: BaseException) -> str:
    """The first line of an error's cause, or of the error itself."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def endpoint() -> str | None:
    """The hub's URL from HF_ENDPOINT, which the client itself reads only once, at import."""
    return os.environ.get("HF_ENDPOINT") or None


def cancellable_tqdm(policy: RetryPolicy) -> type[Any]:
    """A hidden progress bar; its updates are where a running download notices cancellation."""
    from tqdm.auto import tqdm

    class CancellableBar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            policy.raise_if_cancelled()
            return super().update(n)

    return CancellableBar
