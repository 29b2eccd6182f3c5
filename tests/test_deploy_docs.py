"""Commands, paths, variables and fields that docs/deploy.md mentions exist."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from deploy.modal_functions.settings import container_environment
from deploy.runpod_worker.schemas import BASIC_FIELDS, DETAILED_FIELDS
from src.serving.cog.server import MALLOC_ENV

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for folder in ("app", "src", "deploy") for path in (ROOT / folder).rglob("*.py")
)
NOT_OURS = {"LOG_FORMAT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Variables that Cog's server and boto3 read."""


def test_listed_variables_are_read() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", TEXT, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)} - NOT_OURS
    assert len(names) >= 12
    assert [name for name in sorted(names) if f'"{name}"' not in SOURCES] == []


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (deploy\.\w+)", TEXT + README))))
def test_modules_can_be_run(module: str) -> None:
    assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:deploy|tests|benchmarks)/[\w/.]+\.\w+", TEXT + README))))
def test_paths_exist(path: str) -> None:
    assert (ROOT / path).is_file() or path == "benchmarks/results/soak.json"


@pytest.mark.parametrize("fields", [BASIC_FIELDS, DETAILED_FIELDS])
def test_fields_of_both_runpod_formats_are_documented(fields: Iterable[str]) -> None:
    section = TEXT[TEXT.index("## RunPod") : TEXT.index("## Modal")]
    assert [name for name in fields if f"`{name}`" not in section] == []


def test_images_limit_malloc_to_one_arena() -> None:
    dockerfile = (ROOT / "deploy" / "runpod_worker" / "Dockerfile").read_text()
    assert all(f"{name}={value}" in dockerfile for name, value in MALLOC_ENV.items())
    assert container_environment().items() >= MALLOC_ENV.items()


def test_links_have_targets() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\((?!http)([^)]*)\)", TEXT):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / "docs" / target).is_file()
