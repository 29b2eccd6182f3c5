"""The published weights: what they consist of, and how they come onto this machine.

`ensure(folder, names)` leaves each named bundle complete below `folder`, or says why it cannot. `python weights.py`
does the same from the command line, and verifies, converts and packs. docs/weights.md tells the rest.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from src.weights import ensure as fetching
from src.weights import pack as packing
from src.weights.errors import WeightsError
from src.weights.manifest import BUNDLES, CONVERTED, MARKER, Bundle
from src.weights.progress import ProgressCallback
from src.weights.retry import RetryPolicy
from src.weights.sources import BASE_URL_VARIABLE, NAMES, Sources, read_names, read_sources
from src.weights.verify import Depth, FileStatus, inspect_bundle, inspect_converted

__all__ = ["BASE_URL_VARIABLE", "BUNDLES", "DEFAULT_NAMES", "MARKER", "WeightsError", "ensure", "locate", "locate_lora"]

DEFAULT_NAMES = tuple(name for name, bundle in BUNDLES.items() if bundle.default)
DTYPES = ("bf16", "fp8")

logger = logging.getLogger(__name__)


def ensure(
    folder: Path,
    names: Iterable[str] = DEFAULT_NAMES,
    *,
    sources: Sources | None = None,
    patience: RetryPolicy | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Leave every named bundle complete below `folder`; fetch what is not there.

    Where from is the environment's choice, unless `sources` says it. Raises WeightsError in one sentence, and
    ValueError for a name that the manifest does not have.
    """
    fetching.ensure(
        folder, select_bundles(names), sources=sources or read_sources(os.environ), patience=patience, progress=progress
    )


def locate(folder: Path, name: str) -> Path | None:
    """The file of a bundle that is one file, where it lies in `folder`, also in a place of older packages."""
    (found,) = inspect_bundle(folder, BUNDLES[name])
    return found.path if found.state == "ok" else None


def locate_lora(folder: Path, name: str) -> Path | None:
    """A LoRA that came with the model, `loras/<name>.safetensors`, or the one that the manifest calls so."""
    own = folder / "loras" / f"{name}.safetensors"
    if own.is_file():
        return own
    return locate(folder, name) if name in BUNDLES else None


def select_bundles(names: Iterable[str]) -> list[Bundle]:
    """The bundles of these names; ValueError for others."""
    names = list(dict.fromkeys(names))
    if unknown := sorted(set(names) - BUNDLES.keys()):
        raise ValueError(f"no such weights: {', '.join(unknown)}; there are {', '.join(BUNDLES)}")
    return [BUNDLES[name] for name in names]


def echo(text: str) -> None:
    """A result of the command line."""
    sys.stdout.write(f"{text}\n")


class ProgressBars:
    """A progress bar for each bundle."""

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


def list_bundles(options: argparse.Namespace) -> int:
    """What the manifest has."""
    for bundle in BUNDLES.values():
        mark = "*" if bundle.default else " "
        source = ", ".join(Sources().of(bundle))
        echo(f"{mark} {bundle.name:<26}{bundle.gigabytes:>6.1f} GB  {bundle.holds} ({source})")
    echo("* fetched by `download` without a name, and by the server")
    return 0


def download(options: argparse.Namespace) -> int:
    """Leave bundles complete in a folder."""
    sources = read_sources(os.environ)
    if options.source:
        sources = Sources(names=read_names(options.source), base_url=sources.base_url, revisions=sources.revisions)
    names = options.names or DEFAULT_NAMES
    with ExitStack() as stack:
        ensure(options.dest, names, sources=sources, progress=ProgressBars(stack))
    echo(f"{', '.join(names)}: complete in {options.dest}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Look at every file of bundles in a folder; 1 if any of them is missing or broken."""
    depth: Depth = "all" if options.deep else "format"
    if (options.folder / CONVERTED).is_file() and not options.names:
        return print_report({options.folder.resolve().name: inspect_converted(options.folder, depth)})
    found = {
        bundle.name: inspect_bundle(options.folder, bundle, depth)
        for bundle in select_bundles(options.names or BUNDLES)
    }
    if not options.names:
        found = {name: findings for name, findings in found.items() if any(f.state != "missing" for f in findings)}
    if not found:
        echo(f"{options.folder} holds none of {', '.join(BUNDLES)}")
    return print_report(found)


def print_report(found: dict[str, list[FileStatus]]) -> int:
    """Say what was found; 1 if there is nothing, or any of it is missing or broken."""
    for name, findings in found.items():
        echo(f"{name}: {summarize(findings)}")
        for finding in findings:
            echo(f"  {finding}")
    return int(not found or any(finding.lacking for findings in found.values() for finding in findings))


def summarize(findings: list[FileStatus]) -> str:
    """`complete`, or how many files are not as they should be."""
    lacking = sum(finding.lacking for finding in findings)
    return f"{lacking} of {len(findings)} files missing or broken" if lacking else "complete"


def convert(options: argparse.Namespace) -> int:
    """One merged, sharded form of all that inference needs."""
    from wan.checkpoint import CheckpointError
    from wan.checkpoint.convert import convert
    from wan.configs import WAN_CONFIGS

    if options.model not in WAN_CONFIGS:
        raise WeightsError(f"--model is {options.model!r}; allowed are {', '.join(WAN_CONFIGS)}")
    try:
        convert(WAN_CONFIGS[options.model], options.source, options.target, options.dtype)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    return 0


def pack(options: argparse.Namespace) -> int:
    """The tars of a folder of bundles, or of a converted one."""
    for tar in packing.pack(options.source, options.target):
        echo(str(tar))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python weights.py", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="what there is").set_defaults(run=list_bundles)

    command = commands.add_parser("download", help="fetch what is missing, and complete what is there in part")
    command.add_argument("names", nargs="*", metavar="NAME", help="bundles; those with a star in the list if none")
    command.add_argument("--dest", type=Path, default=Path(os.environ.get("MODEL_PATH", "weights")), metavar="DIR")
    command.add_argument("--source", help=f"{', '.join(NAMES)}, or both in order of preference, separated by a comma")
    command.set_defaults(run=download)

    command = commands.add_parser("verify", help="look at every file; status 1 if any is missing or broken")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("names", nargs="*", metavar="NAME", help="bundles; those that are there if none")
    command.add_argument("--deep", action="store_true", help="read every byte: checksums and known hashes")
    command.set_defaults(run=verify)

    command = commands.add_parser("convert", help="make one merged form that loads fast")
    command.add_argument("source", type=Path, metavar="SRC")
    command.add_argument("target", type=Path, metavar="DST")
    command.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    command.add_argument("--model", default=os.environ.get("MULTITALK_MODEL", "multitalk-14B"), metavar="NAME")
    command.set_defaults(run=convert)

    command = commands.add_parser("pack", help="make tars that a server can offer")
    command.add_argument("source", type=Path, metavar="SRC")
    command.add_argument("target", type=Path, metavar="DST")
    command.set_defaults(run=pack)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns 0; 1 for a failure, told in one sentence; 2 for senseless values; 130 if interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (WeightsError, OSError) as problem:
        logger.error(f"error: {problem}")
        return 1
    except ValueError as problem:
        logger.error(f"error: {problem}")
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; what has arrived is kept for the next start")
        return 130


if __name__ == "__main__":
    sys.exit(main())
