"""Files of a repository on the model hub, by its own library: only those that are missing, of one commit."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from src.weights.errors import CorruptError, SourceError
from src.weights.integrity import sha256
from src.weights.manifest import File, Hub
from src.weights.retry import RetryPolicy, TransientError

PARALLEL_FILES = 4
SHA256 = re.compile(r"[0-9a-f]{64}")
RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file as the hub describes it; the hash is known of large files only."""

    path: str
    commit: str
    bytes: int
    sha256: str | None


def resolve_files(hub: Hub, files: Iterable[File], patience: RetryPolicy) -> list[HubFile]:
    """What the hub has of the files, or of their alternatives; SourceError for a needed file that it has not."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise SourceError("HF_HUB_OFFLINE keeps us from the hub")
    commits: dict[str, str] = {}
    found = []
    for file in files:
        remotes = (describe(hub, file, path, commits, patience) for path in file.paths)
        if remote := next((remote for remote in remotes if remote is not None), None):
            found.append(remote)
        elif not file.optional:
            raise SourceError(f"{hub.repository} at {hub.revision} has no {' or '.join(file.paths)}")
    return found


def describe(hub: Hub, file: File, path: str, commits: dict[str, str], patience: RetryPolicy) -> HubFile | None:
    """One file's size, hash and commit; None if it is not there. A branch is resolved once, for all files."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    wish = (file.revision or hub.revision) if path == file.path else hub.revision
    revision = commits.get(wish, wish)
    url = hf_hub_url(hub.repository, path, revision=revision, endpoint=endpoint())
    try:
        data = with_retry(lambda: get_hf_file_metadata(url, timeout=patience.read_s), hub, patience)
    except EntryNotFoundError:
        return None
    except RevisionNotFoundError as error:
        if file.revision and path == file.path and file.alternatives:
            return None
        raise SourceError(f"{hub.repository} has no revision {wish}") from error
    if data.commit_hash is None or data.size is None:
        raise SourceError(f"{url} does not say what it is")
    commits[wish] = data.commit_hash
    digest = data.etag if data.etag and SHA256.fullmatch(data.etag) else None
    return HubFile(path=path, commit=data.commit_hash, bytes=data.size, sha256=digest)


def download(hub: Hub, remotes: list[HubFile], tree: Path, patience: RetryPolicy) -> None:
    """Fetch files into `tree`, several at once; whole ones of an earlier attempt are kept, half ones are not."""
    for stale in tree.rglob("*.incomplete"):
        stale.unlink()
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        tasks = [pool.submit(fetch, hub, remote, tree, patience) for remote in remotes]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun need not
            raise
    shutil.rmtree(tree / ".cache", ignore_errors=True)


def fetch(hub: Hub, remote: HubFile, tree: Path, patience: RetryPolicy) -> None:
    """Fetch one file and check it; CorruptError for another size or hash."""
    from huggingface_hub import hf_hub_download

    patience.check()
    with_retry(
        lambda: hf_hub_download(
            hub.repository,
            remote.path,
            revision=remote.commit,
            local_dir=tree,
            endpoint=endpoint(),
            tqdm_class=silent_tqdm(patience),
        ),
        hub,
        patience,
    )
    path = tree / remote.path
    if path.stat().st_size != remote.bytes or (remote.sha256 and sha256(path) != remote.sha256):
        path.unlink()
        raise CorruptError(f"{remote.path} of {hub.repository} came with another size or hash than announced")


def with_retry(step: Callable[[], T], hub: Hub, patience: RetryPolicy) -> T:
    """Do something with the hub; faults that may pass are retried. SourceError for others, in one sentence."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    def attempt() -> T:
        try:
            return step()
        except LocalEntryNotFoundError as error:
            raise TransientError(f"{hub.repository}: {reason(error)}") from error
        except (EntryNotFoundError, RevisionNotFoundError):
            raise
        except OSError as error:
            raise translate(error, hub) from error
        except Exception as error:
            if isinstance(error, network_errors()):
                raise TransientError(f"{hub.repository}: {reason(error)}") from error
            raise

    try:
        return patience.retrying()(attempt)
    except TransientError as error:
        patience.check()
        raise SourceError(f"{error}, {patience.attempts} times in a row") from error


def translate(error: OSError, hub: Hub) -> Exception:
    """An answer of the hub, or a fault of the network or the disk, as one of our errors."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    made_by_library = status is None and error.errno is None  # such as "consistency check failed"
    if status in RETRYABLE_STATUS or made_by_library or isinstance(error, (ConnectionError, TimeoutError)):
        return TransientError(f"{hub.repository}: {reason(error)}")
    if status in (401, 403):
        return SourceError(f"{hub.repository} is closed to us (HTTP {status}): set HF_TOKEN, or check the name")
    return SourceError(f"{hub.repository}: {reason(error)}") if status else error


def network_errors() -> tuple[type[BaseException], ...]:
    """What the hub library's HTTP client raises when the network fails."""
    import httpx2

    return (httpx2.TransportError,)


def reason(error: BaseException) -> str:
    """The first line of an error, or of what caused it."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def endpoint() -> str | None:
    """Another hub than the public one, by the library's own variable, read when it is needed."""
    return os.environ.get("HF_ENDPOINT") or None


def silent_tqdm(patience: RetryPolicy) -> type[Any]:
    """A progress bar that shows nothing, and is where a download can be stopped."""
    from tqdm.auto import tqdm

    class SilentBar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            patience.check()
            return super().update(n)

    return SilentBar
