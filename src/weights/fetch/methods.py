"""Fetch one bundle from the first source that can provide it: download into a temporary folder, check, install."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.weights.disk import remove, require_space, tree_bytes
from src.weights.errors import CancelledError, CorruptDownloadError, SourceError, WeightsError
from src.weights.fetch import hub, pget
from src.weights.install import install, write_marker
from src.weights.manifest import Bundle, File
from src.weights.progress import partial_dirs
from src.weights.retry import RetryPolicy
from src.weights.sources import BASE_URL_VARIABLE, HUB_SOURCE, TAR_SOURCE, Sources
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, inspect_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTask:
    """A bundle that is missing or incomplete in `folder`.

    `required` are missing or broken required files, `optional` missing optional ones. `pget` is the program's path.
    """

    bundle: Bundle
    folder: Path
    required: tuple[FileStatus, ...]
    optional: tuple[FileStatus, ...]
    sources: Sources
    policy: RetryPolicy
    pget: str | None

    @property
    def files(self) -> tuple[File, ...]:
        """The files to fetch."""
        return tuple(status.file for status in (*self.required, *self.optional))

    @property
    def required_bytes(self) -> int:
        """The approximate size of the missing and broken files."""
        return sum(self.bundle.estimate_bytes(status.file) for status in self.required)

    @property
    def tar_disk_bytes(self) -> int:
        """The approximate space for a tar: that of its files, and of the tar itself unless pget unpacks it."""
        return self.bundle.bytes * (1 if self.sources.is_published_site else 2)

    @property
    def disk_bytes(self) -> int:
        """The approximate space that the first usable source needs."""
        names = [name for name in self.sources.available(self.bundle) if name != TAR_SOURCE or self.pget]
        return self.tar_disk_bytes if names[:1] == [TAR_SOURCE] else self.required_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchMethod:
    """One way to fetch a bundle: where from, about how many bytes, its temporary folder, a function that fills that.

    `download` returns the folder that contains the bundle's files.
    """

    source: str
    bytes: int
    partial: Path
    download: Callable[[Path], Path]


def fetch(task: FetchTask) -> None:
    """Fetch the missing files of a bundle from the first source that can provide them.

    Raises WeightsError when no source can, SpaceError immediately.
    """
    reasons: list[str] = []
    for method in fetch_methods(task):
        logger.info("downloading %s (about %.1f GB) from %s", task.bundle.name, method.bytes / 1e9, method.source)
        try:
            try_method(task, method)
        except CancelledError:
            raise
        except SourceError as error:
            logger.warning("%s: %s", task.bundle.name, error)
            reasons.append(str(error))
        else:
            for partial in partial_dirs(task.folder, task.bundle.name):
                remove(partial)
            return
    names = ", ".join(status.path.name for status in task.required)
    reason = "; ".join(dict.fromkeys(reasons)) or "no enabled source offers it"
    raise WeightsError(
        f"{task.bundle.name} lacks {names} and could not be fetched: {reason}. Put the files into "
        f"{bundle_dir(task.folder, task.bundle)}, or set {BASE_URL_VARIABLE} to another server"
    )


def fetch_methods(task: FetchTask) -> list[FetchMethod]:
    """The methods for a bundle, in the operator's order of sources."""
    makers = {TAR_SOURCE: pget_method, HUB_SOURCE: hub_method}
    return [makers[name](task) for name in task.sources.available(task.bundle)]


def try_method(task: FetchTask, method: FetchMethod) -> None:
    """Download and install; if files that an earlier run left turn out corrupt, start once more without them."""
    is_resumed = method.partial.exists()
    try:
        finalize(task, method.download(method.partial), method.source)
    except CorruptDownloadError as error:
        remove(method.partial)
        if not is_resumed:
            raise CorruptDownloadError(f"{method.source} {error}") from error
        logger.warning("%s: an earlier download %s; starting again", task.bundle.name, error)
        try_method(task, method)


def pget_method(task: FetchTask) -> FetchMethod:
    """Download the whole tar. Nothing of a failed run can be used again."""
    url = task.sources.tar_url(task.bundle)

    def download(partial: Path) -> Path:
        if task.pget is None:
            raise SourceError(f"{url} needs pget, which is not on PATH (install it from {pget.RELEASES_URL})")
        require_space(task.folder, task.tar_disk_bytes, task.bundle.name)
        try:
            tree = pget.download(task.pget, url, partial, task.policy, trusted=task.sources.is_published_site)
        except SourceError:
            remove(partial)
            raise
        return tree / task.bundle.name if (tree / task.bundle.name).is_dir() else tree

    # A unique name: on systems other than Linux, pget of a killed run may still be writing.
    partial = task.folder / f".{task.bundle.name}.pget.{secrets.token_hex(4)}.partial"
    return FetchMethod(source=url, bytes=task.bundle.bytes, partial=partial, download=download)


def hub_method(task: FetchTask) -> FetchMethod:
    """Download the missing files from the hub; complete files of an earlier run are kept."""
    repo = task.sources.hub_repo(task.bundle)

    def download(partial: Path) -> Path:
        files = hub.resolve_files(repo, task.files, task.policy)
        require_space(task.folder, sum(file.bytes for file in files) - tree_bytes(partial), task.bundle.name)
        hub.download(repo, files, partial / "tree", task.policy)
        return partial / "tree"

    partial = hub_partial(task.folder, task.bundle)
    return FetchMethod(source=repo.repository, bytes=task.required_bytes, partial=partial, download=download)


def hub_partial(folder: Path, bundle: Bundle) -> Path:
    """The temporary folder of downloads from the hub, which a later run can complete."""
    return folder / f".{bundle.name}.hub.partial"


def finalize(task: FetchTask, tree: Path, source: str) -> None:
    """Check the fetched files, install them, check the whole bundle, and write the marker.

    Raises CorruptDownloadError if a required file is still missing or broken.
    """
    fetched = [inspect_file(tree, file, depth="hash") for file in task.files]
    if incomplete := [status for status in fetched if status.is_incomplete]:
        raise CorruptDownloadError("lacks " + "; ".join(describe(status, tree) for status in incomplete))
    root = bundle_dir(task.folder, task.bundle)
    install(tree, root, fetched)
    statuses = inspect_bundle(task.folder, task.bundle)
    if incomplete := [status for status in statuses if status.is_incomplete]:
        raise WeightsError(f"{root} was changed during the download: {'; '.join(map(str, incomplete))}")
    write_marker(root, task.bundle, source, statuses)
    logger.info("%s is complete in %s", task.bundle.name, root)


def describe(status: FileStatus, tree: Path) -> str:
    """For example `config.json`, or `model.safetensors (has 3 bytes …)`."""
    if status.state == "broken":
        return f"{status.path.relative_to(tree).as_posix()} ({status.note})"
    return " or ".join(status.file.paths)
