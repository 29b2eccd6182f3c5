"""List, download, verify, convert and pack the published weights.

`ensure(folder, names)` makes bundles complete below `folder`; `python weights.py` is the command line. See
docs/weights.md.
"""

if __name__ == "__main__":  # before the imports below, so that a missing package is said in one sentence
    from src.command_line import launch

    launch("weights")

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from src.command_line import INTERRUPTED, Parser, log_messages, output_folder
from src.weights.converted import ensure_converted
from src.weights.ensure import ensure as ensure_bundles
from src.weights.errors import WeightsError
from src.weights.manifest import BUNDLES, CONVERTED, MARKER, Bundle
from src.weights.pack import pack as pack_tars
from src.weights.progress import ProgressCallback
from src.weights.retry import RetryPolicy
from src.weights.sources import BASE_URL_VARIABLE, SOURCE_NAMES, Sources, parse_names, read_sources
from src.weights.verify import Depth, FileStatus, inspect_bundle, inspect_converted

__all__ = [
    "BASE_URL_VARIABLE",
    "BUNDLES",
    "DEFAULT_NAMES",
    "MARKER",
    "WeightsError",
    "ensure",
    "ensure_model",
    "locate",
    "locate_lora",
]

DEFAULT_NAMES = tuple(name for name, bundle in BUNDLES.items() if bundle.default)
DTYPES = ("bf16", "fp8")
DEFAULT_MODEL = "multitalk-14B"
WEIGHT_SUFFIXES = {".safetensors", ".gguf", ".pth"}
MAX_FILES_SHOWN = 10

logger = logging.getLogger(__name__)


def ensure(
    folder: Path,
    names: Iterable[str] = DEFAULT_NAMES,
    *,
    sources: Sources | None = None,
    policy: RetryPolicy | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Make every named bundle complete below `folder`; fetch what is missing.

    `sources` defaults to those that the environment variables name. Raises WeightsError, whose message is one
    sentence, and ValueError for an unknown name.
    """
    ensure_bundles(
        folder, select_bundles(names), sources=sources or read_sources(os.environ), policy=policy, progress=progress
    )


def ensure_model(folder: Path, model: str, dtype: str | None) -> bool:
    """Make a converted folder complete, or fetch the tar of one from the operator's own URL. False if it is neither.

    `dtype`: the wanted one, None for any. Raises WeightsError for what cannot be completed.
    """
    return ensure_converted(folder, model=model, dtype=dtype, sources=read_sources(os.environ))


def locate(folder: Path, name: str) -> Path | None:
    """The path of a single-file bundle in `folder`, including legacy locations; None if it is missing or broken."""
    (status,) = inspect_bundle(folder, BUNDLES[name])
    return status.path if status.state == "ok" else None


def locate_lora(folder: Path, name: str) -> Path | None:
    """The LoRA `loras/<name>.safetensors`, or else the bundle of that name; None if there is neither."""
    path = folder / "loras" / f"{name}.safetensors"
    if path.is_file():
        return path
    return locate(folder, name) if name in BUNDLES else None


def select_bundles(names: Iterable[str]) -> list[Bundle]:
    """The bundles of these names, each once. Raises ValueError for an unknown name."""
    names = list(dict.fromkeys(names))
    if unknown := sorted(set(names) - BUNDLES.keys()):
        raise ValueError(f"unknown weights: {', '.join(unknown)}; allowed are {', '.join(BUNDLES)}")
    return [BUNDLES[name] for name in names]


def echo(text: str) -> None:
    """Print a result of the command line."""
    sys.stdout.write(f"{text}\n")


class ProgressBars:
    """One tqdm progress bar for each bundle."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.bars: dict[str, object] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if name not in self.bars:
            self.bars[name] = self.stack.enter_context(
                tqdm(desc=name, total=total, initial=done, unit="B", unit_scale=True, position=len(self.bars))
            )
        bar: tqdm = self.bars[name]  # type: ignore[assignment, type-arg, unused-ignore]
        bar.total = max(total, done)
        bar.update(done - bar.n)


def list_bundles(_: argparse.Namespace) -> int:
    """Print every bundle with size, description and sources."""
    for bundle in BUNDLES.values():
        mark = "*" if bundle.default else " "
        sources = ", ".join(Sources().available(bundle))
        echo(f"{mark} {bundle.name:<26}{bundle.gigabytes:>6.1f} GB  {bundle.description} ({sources})")
    echo("* fetched by `download` without a name, and by the server")
    return 0


def other_weight_files(folder: Path) -> list[str]:
    """Weight files in `folder` and its subfolders that belong to no bundle and are no LoRAs, relative to it."""
    if (folder / CONVERTED).is_file():
        return []
    bundles = {Path(bundle.folder).parts[0] for bundle in BUNDLES.values()} | {"loras"}
    paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in WEIGHT_SUFFIXES]
    relative = [path.relative_to(folder) for path in sorted(paths)]
    legacy = {file.path for bundle in BUNDLES.values() for file in bundle.files}
    return [str(path) for path in relative if path.parts[0] not in bundles and str(path) not in legacy]


def download(options: argparse.Namespace) -> int:
    """Make bundles complete in a folder."""
    sources = read_sources(os.environ)
    if options.source:
        sources = Sources(names=parse_names(options.source), base_url=sources.base_url, revisions=sources.revisions)
    names = options.names or DEFAULT_NAMES
    if others := other_weight_files(options.dest):
        echo(
            f"{options.dest} also has {', '.join(others[:MAX_FILES_SHOWN])}: this command knows the bundles' own files "
            "only and downloads them; the server, which reads contents, uses other files in their place"
        )
    with ExitStack() as stack:
        bars = ProgressBars(stack)
        model, dtype = os.environ.get("MULTITALK_MODEL", DEFAULT_MODEL), os.environ.get("MULTITALK_DTYPE")
        if not options.names and ensure_converted(
            options.dest, model=model, dtype=dtype, sources=sources, progress=bars
        ):
            names = (model,)
        else:
            ensure(options.dest, names, sources=sources, progress=bars)
    echo(f"{', '.join(names)}: complete in {options.dest}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Check every file of bundles in a folder. Returns 1 if any is missing or broken."""
    require_folder(options.folder)
    depth: Depth = "all" if options.deep else "format"
    if (options.folder / CONVERTED).is_file() and not options.names:
        return print_report({options.folder.resolve().name: inspect_converted(options.folder, depth)})
    report = {
        bundle.name: inspect_bundle(options.folder, bundle, depth)
        for bundle in select_bundles(options.names or BUNDLES)
    }
    if not options.names:
        report = {name: statuses for name, statuses in report.items() if any(s.state != "missing" for s in statuses)}
    if not report:
        echo(f"{options.folder} contains none of {', '.join(BUNDLES)}")
    return print_report(report)


def require_folder(path: Path) -> None:
    """ValueError if there is no such folder."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {str(path)!r}")


def print_report(report: dict[str, list[FileStatus]]) -> int:
    """Print the status of every file. Returns 1 if the report is empty, or any file is missing or broken."""
    for name, statuses in report.items():
        echo(f"{name}: {summarize(statuses)}")
        for status in statuses:
            echo(f"  {status}")
    return int(not report or any(status.is_incomplete for statuses in report.values() for status in statuses))


def summarize(statuses: list[FileStatus]) -> str:
    """`complete`, or the number of missing and broken files."""
    num_incomplete = sum(status.is_incomplete for status in statuses)
    return f"{num_incomplete} of {len(statuses)} files missing or broken" if num_incomplete else "complete"


def convert(options: argparse.Namespace) -> int:
    """Merge all that inference needs into one folder of sharded safetensors files."""
    from wan.checkpoint import CheckpointError
    from wan.checkpoint.convert import convert
    from wan.configs import WAN_CONFIGS

    require_folder(options.source)
    if options.model not in WAN_CONFIGS:
        raise WeightsError(f"--model is {options.model!r}; allowed are {', '.join(WAN_CONFIGS)}")
    try:
        convert(WAN_CONFIGS[options.model], options.source, options.target, options.dtype)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    return 0


def pack(options: argparse.Namespace) -> int:
    """Write the tars of a folder of bundles, or of a converted one."""
    require_folder(options.source)
    for tar in pack_tars(options.source, options.target, overwrite=options.overwrite):
        echo(str(tar))
    return 0


def parser() -> Parser:
    """The argument parser of the command line."""
    top = Parser("weights.py", __doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="list the bundles").set_defaults(run=list_bundles)

    command = commands.add_parser("download", help="download missing files")
    command.add_argument("names", nargs="*", metavar="NAME", help="bundles; by default those with a star in the list")
    folder = Path(os.environ.get("MODEL_PATH", "weights"))
    command.add_argument("--dest", type=output_folder, default=folder, metavar="DIR", help="folder of the weights")
    command.add_argument("--source", help=f"{' or '.join(SOURCE_NAMES)}, or both in order, separated by a comma")
    command.set_defaults(run=download)

    command = commands.add_parser("verify", help="check every file; exit status 1 if any is missing or broken")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("names", nargs="*", metavar="NAME", help="bundles; by default those of which files exist")
    command.add_argument("--deep", action="store_true", help="read every byte: checksums and known hashes")
    command.set_defaults(run=verify)

    command = commands.add_parser("convert", help="merge the bundles into one folder that loads faster")
    command.add_argument("source", type=Path, metavar="SRC", help="folder of the bundles")
    command.add_argument("target", type=Path, metavar="DST", help="folder to write, which must not exist")
    command.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the large layers")
    model = os.environ.get("MULTITALK_MODEL", DEFAULT_MODEL)
    command.add_argument("--model", default=model, metavar="NAME", help="model configuration")
    command.set_defaults(run=convert)

    command = commands.add_parser("pack", help="write tars for a web server")
    command.add_argument("source", type=Path, metavar="SRC", help="folder of bundles, or a converted one")
    command.add_argument("target", type=output_folder, metavar="DST", help="folder of the tars")
    command.add_argument("--overwrite", action="store_true", help="replace tars that exist")
    command.set_defaults(run=pack)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after a failure, 2 for invalid arguments, 130 if interrupted."""
    log_messages()
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (WeightsError, OSError) as error:
        logger.error(f"error: {error}")
        return 1
    except ValueError as error:
        logger.error(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; files already complete are kept for the next start")
        return INTERRUPTED
