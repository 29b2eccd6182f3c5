"""What docs/deploy.md says is so."""

import importlib.util
import re
from pathlib import Path

import pytest

from deploy.modal_functions.settings import environment
from deploy.runpod_worker.schemas import FIRST, SECOND
from src.serving.cog.server import MALLOC_ENV

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for folder in ("src", "deploy") for path in (ROOT / folder).rglob("*.py")
)
NOT_OURS = {"LOG_FORMAT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Read by Cog's server and by boto3."""


def test_variables_are_read_somewhere() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", TEXT, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)} - NOT_OURS
    assert len(names) >= 12
    read = SOURCES + (ROOT / "settings.py").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f'"{name}"' not in read] == []


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (deploy\.\w+)", TEXT + README))))
def test_modules_exist_and_can_be_run(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert '__name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:deploy|tests|benchmarks)/[\w/.]+\.\w+", TEXT + README))))
def test_files_exist(path: str) -> None:
    assert (ROOT / path).is_file() or path == "benchmarks/results/soak.json"


@pytest.mark.parametrize("fields", [FIRST, SECOND])
def test_every_field_of_runpods_forms_is_documented(fields: tuple[str, ...]) -> None:
    section = TEXT[TEXT.index("## RunPod") : TEXT.index("## Modal")]
    assert [name for name in fields if f"`{name}`" not in section] == []


def test_every_image_has_one_arena_of_memory() -> None:
    dockerfile = (ROOT / "deploy" / "runpod.Dockerfile").read_text()
    assert all(f"{name}={value}" in dockerfile for name, value in MALLOC_ENV.items())
    assert environment().items() >= MALLOC_ENV.items()


def test_links_lead_somewhere() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\((?!http)([^)]*)\)", TEXT):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / "docs" / target).is_file()
