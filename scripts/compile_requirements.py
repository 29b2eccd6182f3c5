"""Pin the dependencies of pyproject.toml and everything they need in requirements.txt, which Cog and make install.

    python -m scripts.compile_requirements           resolve with uv (network needed) and rewrite requirements.txt
    python -m scripts.compile_requirements --check   compare it with pyproject.toml and the installed packages, offline

The CUDA libraries and Triton are left out: torch pins them exactly itself, and a CPU build of torch needs none of them.
"""

from collections.abc import Sequence

from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m scripts.compile_requirements", __doc__)
    parser.add_argument("--check", action="store_true", help="report differences and change nothing")
    return parser


if __name__ == "__main__":  # before the imports below
    launch("scripts.compile_requirements", make_parser)


import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
HEADER = """\
# Compiled from pyproject.toml by `python -m scripts.compile_requirements`; do not edit.
# CUDA of torch's default build: {cuda}
"""
OF_TORCH = re.compile(r"(nvidia-|cuda-|triton\b)")
"""Packages that torch's CUDA build pins by itself."""
PLATFORM = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "python_version": "3.11",
    "python_full_version": "3.11.9",
}
"""The image's platform, for environment markers; the pins serve other platforms as well."""
BUILD_TOOLS = {"pip", "setuptools"}


def direct_requirements() -> list[Requirement]:
    """The dependencies of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def compile_requirements() -> str:
    """The text of requirements.txt by `uv pip compile`; pins of the present file are kept where they still fit."""
    command = [
        *("uv", "pip", "compile", "pyproject.toml", "--python-platform", "linux", "--python-version", "3.11"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet", "--output-file", str(REQUIREMENTS)),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines(keepends=True)
    (cuda,) = [match[1] for line in lines if (match := re.match(r"cuda-toolkit==(\d+\.\d+)\.", line))]
    kept = "".join(line for line in lines if not OF_TORCH.match(line) and not line.startswith("#"))
    return HEADER.format(cuda=cuda) + kept


def pins() -> dict[str, Requirement]:
    """The lines of requirements.txt, by package."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in requirements}


def needed_packages() -> set[str]:
    """Packages that the direct dependencies need on Python 3.11, by the metadata of what is installed."""
    needed: set[str] = set()
    waiting = direct_requirements()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in needed or OF_TORCH.match(name):
            continue
        needed.add(name)
        extras = {"", *requirement.extras}
        for line in metadata.requires(name) or ():
            child = Requirement(line)
            if child.marker is None or any(child.marker.evaluate(PLATFORM | {"extra": extra}) for extra in extras):
                waiting.append(child)
    return needed - BUILD_TOOLS


def problems() -> Iterator[str]:
    """How requirements.txt differs from pyproject.toml, one line each."""
    pinned = pins()
    for requirement in direct_requirements():
        pin = pinned.get(canonicalize_name(requirement.name))
        if pin is None or str(pin.specifier) != str(requirement.specifier):
            yield f"pyproject.toml has {requirement}, requirements.txt {pin or 'nothing'}"
    needed = needed_packages()
    yield from (f"{name} is needed and not pinned" for name in sorted(needed - pinned.keys()))
    yield from (f"{name} is pinned and not needed" for name in sorted(pinned.keys() - needed - BUILD_TOOLS))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; with --check the exit status is 1 if the file is out of date."""
    if not make_parser().parse_args(argv).check:
        REQUIREMENTS.write_text(compile_requirements(), encoding="utf-8")
        return 0
    differences = list(problems())
    sys.stderr.writelines(f"{line}\n" for line in differences)
    return 1 if differences else 0
