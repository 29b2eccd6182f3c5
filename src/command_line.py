"""What every command shares: values of arguments, outputs that already exist, errors in one line, exit statuses.

Exit statuses: 0, 1 after a failure, 2 for invalid arguments, 130 after Ctrl-C. Only the standard library is imported:
`--help` and mistakes are answered at once, also by a Python without the packages.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
MIN_PYTHON = (3, 11)
INTERRUPTED = 130
MAX_WHOLE_NUMBER = 2**31 - 1
"""Also the largest random seed."""
BROKEN_PIPE = 141


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description and appends defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or not action.option_strings:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults, refuses invalid arguments in one line, and protects existing outputs."""

    def __init__(self, command: str = "", description: str | None = None, **options: Any) -> None:
        defaults = {"prog": f"python {command}", "formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(description=description, **{**defaults, **options})
        self.checks: list[Callable[[argparse.Namespace], None]] = []
        """Called with the arguments; a ValueError refuses them."""
        self.has_outputs = False

    def add_output(self, *names: str, is_folder: bool = False, rewrite_default: bool = False, **options: Any) -> None:
        """Add the path of a file, or of a folder, that must be new or empty unless `--overwrite` is given.

        `rewrite_default`: the default is a file that the command is there to rewrite, and may exist.
        """
        action = self.add_argument(*names, type=Path, **options)
        if not self.has_outputs:
            self.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
        self.has_outputs = True

        def check(arguments: argparse.Namespace) -> None:
            path = getattr(arguments, action.dest)
            if path is not None:
                overwrite = arguments.overwrite or (rewrite_default and path == action.default)
                require_new(path, overwrite=overwrite, is_folder=is_folder)

        self.checks.append(check)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; exits with status 2 if one is invalid or an output exists."""
        arguments = super().parse_args(args, namespace)
        try:
            for check in self.checks:
                check(arguments)
        except ValueError as error:
            self.error(str(error))
        return arguments

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"error: {message} ({self.prog} --help lists the arguments)\n")


def require_new(path: Path, *, overwrite: bool = False, is_folder: bool = False) -> None:
    """ValueError for an output that exists, or cannot be made; a folder may exist if it is empty."""
    if path.exists() and path.is_dir() != is_folder:
        found, needed = ("file", "folder") if is_folder else ("folder", "file")
        raise ValueError(f"{path} is a {found}; the path of a {needed} is needed")
    if not overwrite and (any(path.iterdir()) if path.is_dir() else path.exists()):
        raise ValueError(
            f"{path} exists{' and is not empty' if is_folder else ''}; name another one or use --overwrite"
        )
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be made: {parent} is not a folder that you may write to")


def write_atomically(path: Path, write: Callable[[Path], None], *, overwrite: bool) -> Path:
    """Write a file beside `path` and move it there. Returns where it is.

    If a file has appeared at `path` meanwhile and must not be overwritten, the new one gets a number: `name-2.mp4`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        if overwrite:
            partial.replace(path)
            return path
        for target in numbered(path):
            try:
                os.link(partial, target)  # fails, unlike a move, if the target exists
            except FileExistsError:
                continue
            return target
    finally:
        partial.unlink(missing_ok=True)
    raise AssertionError("there is always another number")


def numbered(path: Path) -> Iterator[Path]:
    """The path, then the same with `-2`, `-3`, ... before its suffix."""
    yield path
    number = 2
    while True:
        yield path.with_stem(f"{path.stem}-{number}")
        number += 1


def whole_number(minimum: int = 1, maximum: int = MAX_WHOLE_NUMBER, *, multiple: int = 1) -> Callable[[str], int]:
    """An argument's type: a whole number within bounds, a multiple of `multiple`."""
    kind = "whole number" if multiple == 1 else f"multiple of {multiple}"

    def parse(text: str) -> int:
        try:
            if minimum <= (number := int(text)) <= maximum and number % multiple == 0:
                return number
        except ValueError:
            pass
        allowed = f"a {kind} from {minimum} to {maximum}"
        if maximum == MAX_WHOLE_NUMBER:
            allowed = f"a {kind} of at least {minimum if multiple == 1 else max(minimum, multiple)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; {allowed} is needed")

    return parse


def number(minimum: float = 0.0, maximum: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """An argument's type: a finite number from `minimum` (or `above` it) to `maximum`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and (value > minimum if above else value >= minimum) and value <= maximum:
            return value
        limit = "" if maximum == math.inf else f" and at most {maximum:g}"
        least = f"above {minimum:g}" if above else f"of at least {minimum:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number {least}{limit} is needed")

    return parse


def existing_folder(text: str) -> Path:
    """An argument's type: a folder that exists."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text)


def output_folder(text: str) -> Path:
    """An argument's type: a folder that is made if there is none; what is in it is kept."""
    try:
        require_new(Path(text), overwrite=True, is_folder=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def existing_file(text: str) -> Path:
    """An argument's type: a file that exists."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return Path(text)


def log_messages(level: int = logging.INFO) -> None:
    """Log plain messages to standard error."""
    logging.basicConfig(level=level, format="%(message)s")


def launch(module: str, parser: Callable[[], argparse.ArgumentParser] | None = None) -> NoReturn:
    """Run `module.main()` as a command. Invalid arguments and `--help` are answered before the module is imported."""
    with one_line_errors():
        if parser is not None:
            parser().parse_args()
        sys.exit(importlib.import_module(module).main())


def require_packages(*names: str) -> None:
    """ModuleNotFoundError for the first of these packages that is not installed. None is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with one line after Ctrl-C, for a missing package or Python version, and for files that cannot be used."""
    try:
        if sys.version_info < MIN_PYTHON:
            needed, found = (".".join(map(str, version[:2])) for version in (MIN_PYTHON, sys.version_info))
            fail(f"Python {needed} or later is needed; {sys.executable} is {found}", 1)
        yield
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted", INTERRUPTED, prefix="")
    except ModuleNotFoundError as error:
        sentence = missing_package(error)
        if sentence is None:
            raise
        fail(sentence, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        fail(str(error), 1)


def fail(message: str, status: int, *, prefix: str = "error: ") -> NoReturn:
    """Write one line to standard error and exit."""
    sys.stderr.write(f"{prefix}{message}\n")
    sys.exit(status)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Which package is missing and how to install it; None for a module of the project or of Python itself."""
    name = (error.name or "").partition(".")[0]
    if not name or name in sys.stdlib_module_names or (REPOSITORY / name).exists():
        return None
    venv = REPOSITORY / ".venv"
    active = Path(sys.prefix).resolve() == venv.resolve()
    activate = f". {venv}/bin/activate"
    start = f"the Python package {name!r} is missing in {sys.prefix}"
    extra = extra_with(name)
    if extra is not None:
        first = (
            "" if active else f"`{activate}` and then " if venv.is_dir() else "`make install`, activate .venv, then "
        )
        return f"{start}; run {first}`pip install -c requirements.txt '.[{extra}]'` in {REPOSITORY}"
    if venv.is_dir() and not active:
        return f"{start}; run `{activate}` first, or this command with {venv}/bin/python"
    if active:
        return f"{start}; run `pip install -r requirements.txt` in {REPOSITORY}"
    return f"{start}; run `make install` in {REPOSITORY}, which creates .venv, and then `{activate}`"


def extra_with(name: str) -> str | None:
    """The optional dependencies in pyproject.toml that have a package of this name."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, requirements in project.get("optional-dependencies", {}).items():
        if any(requirement.partition("=")[0].partition("[")[0].strip() == name for requirement in requirements):
            return str(extra)
    return None
