"""Commands, examples, links and variables of README.md and docs/ are real."""

import itertools
import re
import shlex
import subprocess
from typing import Any

import pytest
import torch

from app.inputs import input_schema
from scripts import record_demo
from scripts.generate_docs import outdated
from src.serving.cog.cli_inputs import read_inputs
from tests.conftest import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES |= {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md")}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = PAGES["README.md"] + PAGES["docs/inputs.md"]
COMMANDS = [
    line
    for kind, block in BLOCK.findall(EXAMPLES)
    if kind == ""
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
SHELL_VARIABLES = dict(re.findall(r'^(\w+)="(.*)"$', EXAMPLES, re.MULTILINE))
FOREIGN_VARIABLES = {"LOG_FORMAT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"}
"""Read by Cog's server, boto3 and huggingface_hub."""


def shell_words(command: str) -> list[str]:
    """A line of an example as a shell splits it, without comments."""
    for name, value in SHELL_VARIABLES.items():
        command = command.replace(f"${name}", value)
    return shlex.split(command, comments=True)


def examples(program: str) -> list[tuple[str, list[str]]]:
    """The lines that run a program, each with its inputs as `name=value`."""
    lines = [(line, shell_words(line)) for line in COMMANDS if not line.startswith(tuple(SHELL_VARIABLES))]
    return [
        (line, [value for option, value in itertools.pairwise(words) if option == "-i"])
        for line, words in lines
        if program in words
    ]


def test_generated_sections_are_up_to_date() -> None:
    assert sorted(map(str, outdated())) == [], "run `python -m scripts.generate_docs`"


def test_animation_of_the_demo_is_that_of_its_video() -> None:
    assert record_demo.is_current(record_demo.VIDEO, record_demo.ANIMATION), "run `python -m scripts.record_demo`"


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["predict", "predict.py", "app.preview"])
def test_inputs_of_the_examples_are_valid(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert examples(program)
    for _, tokens in examples(program):
        assert read_inputs(tokens, input_schema())


def test_every_input_has_an_example() -> None:
    shown = {token.partition("=")[0] for _, tokens in examples("predict.py") for token in tokens}
    assert shown == set(input_schema()["components"]["schemas"]["Input"]["properties"])


@pytest.mark.usefixtures("short_examples")
def test_python_examples() -> None:
    (example,) = python_blocks("README.md")
    progress, tensors = python_blocks("docs/python.md")
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert scope["output"].path.stat().st_size > 0
    exec(progress, scope)
    assert scope["output"].metrics["frames"] == 20
    exec(tensors.replace("33", "13"), scope)
    assert scope["video"].shape[:2] == (3, 13)
    assert torch.isfinite(scope["video"]).all()


def python_blocks(page: str) -> list[str]:
    return [block for kind, block in BLOCK.findall(PAGES[page]) if kind == "python"]


def sources(*folders: str) -> str:
    """The text of all Python files in these folders and at the top level."""
    below = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return "\n".join(path.read_text("utf-8") for path in [*ROOT.glob("*.py"), *below])


@pytest.mark.parametrize("page", ["docs/configuration.md", "docs/deploy.md", "docs/weights.md"])
def test_documented_variables_are_read(page: str) -> None:
    code = sources("app", "src", "wan", "deploy")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", PAGES[page], re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)} - FOREIGN_VARIABLES
    assert names
    assert [name for name in sorted(names) if f'"{name}"' not in code] == []


def test_variables_that_are_read_are_documented() -> None:
    code = sources("app", "src", "deploy") + sources("wan").replace('"MAX_VALUE"', "")  # a constant of a kernel
    names = set(re.findall(r'"((?:MULTITALK|MAX|MODEL|S3|WEB|RUNPOD|MODAL)_[A-Z_]+)"', code))
    assert len(names) >= 20
    text = "\n".join(PAGES.values())
    assert sorted(name for name in names if f"`{name}" not in text and f" {name}" not in text) == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_to_files(page: str) -> None:
    folder = (ROOT / page).parent
    targets = [target.partition("#")[0] for target in re.findall(r"\]\((?!http)([^)]*)\)", PAGES[page])]
    assert [target for target in targets if target and not (folder / target).exists()] == []


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([a-z_]+(?:\.\w+)*)", "\n".join(PAGES.values())))))
def test_modules_that_are_named_exist(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    if module not in {"pip", "pytest"}:
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
