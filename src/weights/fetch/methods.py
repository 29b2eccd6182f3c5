"""One bundle, from the first source that can give it, into a temporary folder, checked, and into place."""

import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.weights.fetch.methods import hub
from src.weights.fetch.methods import pget
from src.weights.disk import remove, require_space, tree_bytes
from src.weights.errors import CorruptError, SourceError, StoppedError, WeightsError
from src.weights.manifest import Bundle, File
from src.weights.retry import Patience
from src.weights.install import is_new, mark, put
from src.weights.progress import partials
from src.weights.fetch.http_file import RemoteFile
from src.weights.sources import BASE_URL_VARIABLE, Sources
from src.weights.fetch.tar import unpack
from src.weights.verify import Finding, examine, examine_file, home

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A bundle that is missing, or incomplete, in `folder`.

    `lacking` are the files that it needs, `absent` the optional ones that are not there either.
    """

    bundle: Bundle
    folder: Path
    lacking: tuple[Finding, ...]
    absent: tuple[Finding, ...]
    sources: Sources
    patience: Patience

    @property
    def whole(self) -> bool:
        """Whether nothing of the bundle is there yet."""
        return len(self.lacking) == len(self.bundle.needed) and is_new(home(self.folder, self.bundle))

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
class Way:
    """A way to fetch: what it is called, its temporary folder, and what fills that and returns where the files are."""

    source: str
    partial: Path
    fill: Callable[[Path], Path]


def fetch(task: Task) -> None:
    """Fetch what a bundle lacks, from the first source that can.

    Raises WeightsError, in one sentence, when none can; SpaceError at once.
    """
    reasons: list[str] = []
    for way in ways(task):
        logger.info("downloading %s (about %.1f GB) from %s", task.bundle.name, task.bytes / 1e9, way.source)
        try:
            attempt(task, way)
        except StoppedError:
            raise
        except SourceError as error:
            logger.warning("%s: %s", task.bundle.name, error)
            reasons.append(str(error))
        else:
            for left in partials(task.folder, task.bundle.name):
                remove(left)
            return
    names = ", ".join(found.path.name for found in task.lacking)
    why = "; ".join(dict.fromkeys(reasons)) or "no source that is switched on has it"
    raise WeightsError(
        f"{task.bundle.name} lacks {names} and could not be fetched: {why}. Put the files into "
        f"{home(task.folder, task.bundle)}, or name another server with {BASE_URL_VARIABLE}"
    )


def ways(task: Task) -> list[Way]:
    """How a bundle can be fetched. pget can only fetch a whole tar: where half is there, reading ranges goes first."""
    found: list[Way] = []
    for source in task.sources.of(task.bundle):
        if source == "huggingface":
            found.append(
                Way(source=task.sources.hub(task.bundle).repository, partial=task.partial("hub"), fill=by_hub(task))
            )
            continue
        url = task.sources.tar_url(task.bundle)
        tars = [Way(source=url, partial=task.partial("http"), fill=by_http(task, url))]
        if program := pget.find_pget():
            partial = task.partial(f"pget.{secrets.token_hex(4)}")
            tars.insert(0, Way(source=url, partial=partial, fill=by_pget(task, program, url)))
        found += tars if task.whole else reversed(tars)
    return found


def attempt(task: Task, way: Way) -> None:
    """Fill the temporary folder and settle what is in it; what was resumed and proves corrupt is begun anew, once."""
    resumed = way.partial.exists()
    try:
        settle(task, way.fill(way.partial), way.source)
    except CorruptError as error:
        remove(way.partial)
        if not resumed:
            raise CorruptError(f"{way.source} {error}") from error
        logger.warning("%s: what an earlier run left %s; beginning anew", task.bundle.name, error)
        attempt(task, way)


def by_pget(task: Task, program: str, url: str) -> Callable[[Path], Path]:
    """pget, whose leavings are of no use."""

    def fill(partial: Path) -> Path:
        require_space(task.folder, task.bundle.bytes, task.bundle.name)
        try:
            return root(pget.download(program, url, partial, task.patience), task.bundle)
        except SourceError:
            remove(partial)
            raise

    return fill


def by_http(task: Task, url: str) -> Callable[[Path], Path]:
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
        return root(partial / "tree", task.bundle)

    return fill


def by_hub(task: Task) -> Callable[[Path], Path]:
    """The hub's repository: only the files that are lacking."""
    repository = task.sources.hub(task.bundle)

    def fill(partial: Path) -> Path:
        remotes = hub.look_up(repository, task.wanted, task.patience)
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


def root(tree: Path, bundle: Bundle) -> Path:
    """Where the files of an unpacked tar are: in a folder of the bundle's name, or at the top."""
    return tree / bundle.name if (tree / bundle.name).is_dir() else tree


def settle(task: Task, tree: Path, source: str) -> None:
    """Check what was fetched, put it into place, check all of the bundle, and mark it complete.

    Raises CorruptError if anything that was lacking still is.
    """
    fetched = [examine_file(tree, file, depth="hash") for file in task.wanted]
    if wrong := [found for found in fetched if found.lacking]:
        raise CorruptError("came without " + "; ".join(describe(found, tree) for found in wrong))
    place = home(task.folder, task.bundle)
    put(tree, place, fetched)
    findings = examine(task.folder, task.bundle)
    if wrong := [found for found in findings if found.lacking]:
        raise WeightsError(f"{place} changed while it was completed: {'; '.join(map(str, wrong))}")
    mark(place, task.bundle, source, findings)
    logger.info("%s is complete in %s", task.bundle.name, place)


def describe(found: Finding, tree: Path) -> str:
    """`config.json`, or `model.safetensors (has 3 bytes …)`."""
    name = found.path.relative_to(tree).as_posix() if found.state == "broken" else " or ".join(found.file.paths)
    return f"{name} ({found.remark})" if found.state == "broken" else name
