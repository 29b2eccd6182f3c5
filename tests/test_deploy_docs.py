"""What docs/deploy.md says about the deployments: paths, fields, anchors, and the images. Variables: test_docs.py."""

import re
from collections.abc import Iterable

import pytest

from benchmarks.speed.cold_start import KERNEL_CACHE_VARIABLES
from deploy.modal_functions.settings import container_environment
from deploy.runpod_worker.schemas import BASIC_FIELDS, DETAILED_FIELDS
from src.serving.cog.server import MALLOC_ENV
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_kernel_caches_are_on_the_volume() -> None:
    dockerfile = (ROOT / "deploy" / "runpod_worker" / "Dockerfile").read_text()
    environment = container_environment()
    for name in KERNEL_CACHE_VARIABLES:
        assert f"{name}=/runpod-volume/.kernels/" in dockerfile
        assert environment[name].startswith("/weights/.kernels/")


def test_anchors_have_headings() -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings
