"""One bundle, from the first source that can give it, into a temporary folder, checked, and into place."""

import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.weights.disk import remove, require_space, tree_bytes
from src.weights.errors import CorruptError, SourceError, StoppedError, WeightsError
from src.weights.fetch import hub, pget
from src.weights.fetch.http_file import RemoteFile
from src.weights.fetch.tar import unpack
from src.weights.install import install, is_empty, write_marker
from src.weights.manifest import Bundle, File
from src.weights.progress import partial_dirs
from src.weights.retry import RetryPolicy
from src.weights.sources import BASE_URL_VARIABLE, Sources
from src.weights.verify import FileStatus, bundle_dir, inspect_bundle, inspect_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTask:
    """A bundle that is missing, or incomplete, in `folder`.

    `lacking` are the files that it needs, `absent` the optional ones that are not there either.
    """

    bundle: Bundle
    folder: Path
    lacking: tuple[FileStatus, ...]
    absent: tuple[FileStatus, ...]
    sources: Sources
    patience: RetryPolicy

    @property
    def whole(self) -> bool:
        """Whether nothing of the bundle is there yet."""
        return len(self.lacking) == len(self.bundle.needed) and is_empty(bundle_dir(self.folder, self.bundle))

    @property
    def wanted(self) -> tuple[File, ...]:
        """The files that are worth fetching."""
        return tuple(found.file for found in (*self.lacking, *self.absent))

    @property
    def bytes(self) -> int:
        """About how much there is to fetch."""
        if self.whole:
            return self.bundle.bytes
        return sum(self.bundle.about(found.file) for found in self.lacking)

    def partial(self, way: str) -> Path:
        """The temporary folder of one way of fetching, beside the bundle's place."""
        return self.folder / f".{self.bundle.name}.{way}.partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchMethod:
    """A way to fetch: what it is called, its temporary folder, and what fills that and returns where the files are."""

    source: str
    partial: Path
    fill: Callable[[Path], Path]


def fetch(task: FetchTask) -> None:
    """Fetch what a bundle lacks, from the first source that can.

    Raises WeightsError, in one sentence, when none can; SpaceError at once.
    """
    reasons: list[str] = []
    for way in fetch_methods(task):
        logger.info("downloading %s (about %.1f GB) from %s", task.bundle.name, task.bytes / 1e9, way.source)
        try:
            try_method(task, way)
        except StoppedError:
            raise
        except SourceError as error:
            logger.warning("%s: %s", task.bundle.name, error)
            reasons.append(str(error))
        else:
            for left in partial_dirs(task.folder, task.bundle.name):
                remove(left)
            return
    names = ", ".join(found.path.name for found in task.lacking)
    why = "; ".join(dict.fromkeys(reasons)) or "no source that is switched on has it"
    raise WeightsError(
        f"{task.bundle.name} lacks {names} and could not be fetched: {why}. Put the files into "
        f"{bundle_dir(task.folder, task.bundle)}, or name another server with {BASE_URL_VARIABLE}"
    )


def fetch_methods(task: FetchTask) -> list[FetchMethod]:
    """How a bundle can be fetched. pget can only fetch a whole tar: where half is there, reading ranges goes first."""
    found: list[FetchMethod] = []
    for source in task.sources.of(task.bundle):
        if source == "huggingface":
            found.append(
                FetchMethod(
                    source=task.sources.hub(task.bundle).repository, partial=task.partial("hub"), fill=hub_method(task)
                )
            )
            continue
        url = task.sources.tar_url(task.bundle)
        tars = [FetchMethod(source=url, partial=task.partial("http"), fill=http_method(task, url))]
        if program := pget.find_pget():
            partial = task.partial(f"pget.{secrets.token_hex(4)}")
            tars.insert(0, FetchMethod(source=url, partial=partial, fill=pget_method(task, program, url)))
        found += tars if task.whole else reversed(tars)
    return found


def try_method(task: FetchTask, way: FetchMethod) -> None:
    """Fill the temporary folder and settle what is in it; what was resumed and proves corrupt is begun anew, once."""
    resumed = way.partial.exists()
    try:
        finalize(task, way.fill(way.partial), way.source)
    except CorruptError as error:
        remove(way.partial)
        if not resumed:
            raise CorruptError(f"{way.source} {error}") from error
        logger.warning("%s: what an earlier run left %s; beginning anew", task.bundle.name, error)
        try_method(task, way)


def pget_method(task: FetchTask, program: str, url: str) -> Callable[[Path], Path]:
    """pget, whose leavings are of no use."""

    def fill(partial: Path) -> Path:
        require_space(task.folder, task.bundle.bytes, task.bundle.name)
        try:
            return bundle_root(pget.download(program, url, partial, task.patience), task.bundle)
        except SourceError:
            remove(partial)
            raise

    return fill


def http_method(task: FetchTask, url: str) -> Callable[[Path], Path]:
    """The tar read over HTTP: only the files that are lacking, from the byte where an earlier run ended."""
    paths = {path for file in task.wanted for path in file.paths}

    def wanted(name: str) -> bool:
        return task.whole or name.removeprefix(f"{task.bundle.name}/") in paths

    def fill(partial: Path) -> Path:
        with RemoteFile(url, task.patience) as remote:
            same_source(partial, {"url": url, "bytes": remote.size, "version": remote.version})
            expected = remote.size if task.whole else task.bytes
            require_space(task.folder, expected - tree_bytes(partial / "tree"), task.bundle.name)
            unpack(remote, partial / "tree", wanted)
        return bundle_root(partial / "tree", task.bundle)

    return fill


def hub_method(task: FetchTask) -> Callable[[Path], Path]:
    """The hub's repository: only the files that are lacking."""
    repository = task.sources.hub(task.bundle)

    def fill(partial: Path) -> Path:
        remotes = hub.resolve_files(repository, task.wanted, task.patience)
        same_source(partial, {"repository": repository.repository, "commits": sorted({r.commit for r in remotes})})
        require_space(task.folder, sum(r.bytes for r in remotes) - tree_bytes(partial / "tree"), task.bundle.name)
        hub.download(repository, remotes, partial / "tree", task.patience)
        return partial / "tree"

    return fill


def same_source(partial: Path, source: dict[str, object]) -> None:
    """Keep what an earlier run left only if it came from exactly this source."""
    note = partial / "source.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        known = None
    if known != source:
        remove(partial)
        partial.mkdir(parents=True)
        note.write_text(json.dumps(source), encoding="utf-8")


def bundle_root(tree: Path, bundle: Bundle) -> Path:
    """Where the files of an unpacked tar are: in a folder of the bundle's name, or at the top."""
    return tree / bundle.name if (tree / bundle.name).is_dir() else tree


def finalize(task: FetchTask, tree: Path, source: str) -> None:
    """Check what was fetched, put it into place, check all of the bundle, and mark it complete.

    Raises CorruptError if anything that was lacking still is.
    """
    fetched = [inspect_file(tree, file, depth="hash") for file in task.wanted]
    if wrong := [found for found in fetched if found.lacking]:
        raise CorruptError("came without " + "; ".join(describe(found, tree) for found in wrong))
    place = bundle_dir(task.folder, task.bundle)
    install(tree, place, fetched)
    findings = inspect_bundle(task.folder, task.bundle)
    if wrong := [found for found in findings if found.lacking]:
        raise WeightsError(f"{place} changed while it was completed: {'; '.join(map(str, wrong))}")
    write_marker(place, task.bundle, source, findings)
    logger.info("%s is complete in %s", task.bundle.name, place)


def describe(found: FileStatus, tree: Path) -> str:
    """`config.json`, or `model.safetensors (has 3 bytes …)`."""
    name = found.path.relative_to(tree).as_posix() if found.state == "broken" else " or ".join(found.file.paths)
    return f"{name} ({found.remark})" if found.state == "broken" else name
