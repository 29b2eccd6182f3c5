"""What the README says is so. `python -m tests.test_readme` rewrites its table of inputs."""

import itertools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from src.serving.cog.cli_inputs import read_inputs
from src.serving.cog.schema import openapi

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for kind, block in BLOCKS if kind == "" for line in block.replace("\\\n", " ").splitlines() if line.strip()
]
VARIABLES = dict(re.findall(r'^(\w+)="(.*)"$', TEXT, re.MULTILINE))
READERS = (
    "settings.py",
    "src/weights/sources.py",
    "src/serving/cog/server.py",
    "wan/modules/attention.py",
    "wan/modules/kernels/dispatch.py",
)
"""Where environment variables are read."""
TABLE = re.compile(r"^\| input \|.*?(?=\n\n)", re.MULTILINE | re.DOTALL)


def words_of(command: str) -> list[str]:
    """What a shell makes of a line of the README, its comments and settings left out."""
    for name, value in VARIABLES.items():
        command = command.replace(f"${name}", value)
    return shlex.split(command, comments=True)


def examples(program: str) -> list[tuple[str, list[str]]]:
    """The lines that run a program, each with its inputs as `name=value`."""
    lines = [(line, words_of(line)) for line in COMMANDS if not line.startswith(tuple(VARIABLES))]
    return [
        (line, [value for option, value in itertools.pairwise(words) if option == "-i"])
        for line, words in lines
        if program in words
    ]


def input_table() -> str:
    """The predictor's inputs as a Markdown table, from its schema."""
    schemas = openapi((ROOT / "predict.py").read_text(encoding="utf-8"))["components"]["schemas"]
    required = schemas["Input"].get("required", [])
    rows = ["| input | what | allowed | default |", "|---|---|---|---|"]
    for name, field in schemas["Input"]["properties"].items():
        default = "**required**" if name in required else default_text(field.get("default"))
        rows.append(f"| `{name}` | {field['description']} | {allowed_text(field, schemas)} | {default} |")
    return "\n".join(rows)


def allowed_text(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "allOf" in field:
        return ", ".join(f"`{choice}`" for choice in schemas[field["allOf"][0]["$ref"].rpartition("/")[2]]["enum"])
    if field.get("format") == "uri":
        return "file"
    if field["type"] == "array":
        return "files"
    low, high = field.get("minimum"), field.get("maximum")
    bounds = f" {low} to {high}" if high is not None else f" from {low}" if low is not None else ""
    return {"string": "text", "boolean": "true, false"}.get(field["type"], field["type"]) + bounds


def default_text(value: Any) -> str:
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_table_of_inputs_is_the_predictors() -> None:
    found = TABLE.search(TEXT)
    assert found is not None
    assert found[0] == input_table(), "run `python -m tests.test_readme`"


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["predict", "predict.py", "preview.py"])
def test_predictions_have_inputs_that_exist(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for _, tokens in examples(program):
        assert read_inputs(tokens, openapi((ROOT / "predict.py").read_text(encoding="utf-8")))


def test_every_input_has_an_example() -> None:
    shown = {token.partition("=")[0] for _, tokens in examples("predict.py") for token in tokens}
    schemas = openapi((ROOT / "predict.py").read_text(encoding="utf-8"))["components"]["schemas"]
    assert shown == set(schemas["Input"]["properties"])


def test_there_are_commands_to_test() -> None:
    assert {"make demo", "make test", "make serve"} <= set(COMMANDS)
    assert len(examples("predict")) == 1


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for kind, block in BLOCKS if kind == "python"]
    monkeypatch.chdir(ROOT)
    scope: dict[str, Any] = {}
    exec(example, scope)
    video = scope["video"]
    assert video.shape[:2] == (3, 33)
    assert torch.isfinite(video).all()


def test_environment_variables_are_read_somewhere() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / name for name in READERS))
    names = re.findall(r"^\| `([A-Z][A-Z_]+)` \|", TEXT, re.MULTILINE)
    assert len(names) >= 5
    assert [name for name in names if f'"{name}"' not in sources] == []


def test_environment_variables_that_are_ours_are_documented() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (README, *(ROOT / "docs").glob("*.md")))
    below = (path for folder in ("src", "wan", "deploy") for path in (ROOT / folder).rglob("*.py"))
    files = [*ROOT.glob("*.py"), *below]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r'"((?:MULTITALK|MAX|MODEL|S3|WEB|RUNPOD|MODAL)_[A-Z_]+)"', sources))
    assert len(names) >= 20
    assert sorted(name for name in names if f"`{name}" not in pages and f" {name}" not in pages) == []


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda _: input_table(), TEXT), encoding="utf-8")
