"""cog.yaml follows Cog's rules; without Docker a mistake would only show in a build elsewhere."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.speed.cold_start import KERNEL_CACHE_VARIABLES
from src.serving.cog.server import MALLOC_ENV

ROOT = Path(__file__).parents[1]
# Keys of Cog 0.23's schema of cog.yaml (pkg/config/data/config_schema_v1.0.json in its repository).
TOP_KEYS = {"build", "concurrency", "environment", "image", "model", "predict", "run", "tests", "train", "weights"}
BUILD_KEYS = {
    *("cuda", "cudnn", "gpu", "pre_install", "python_packages", "python_requirements", "python_version"),
    *("run", "sdk_version", "system_packages"),
}
REFUSED_ENVIRONMENT = [
    *("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV"),
    *("CUDA_*", "HF_ENDPOINT", "HF_HUB_ENABLE_HF_TRANSFER", "KUBERNETES_*", "NVIDIA_*", "NV_*"),
    *("PGET_*", "R8_*", "REPLICATE_*"),
]
KERNELS = ("TRITON_", "TORCHINDUCTOR_", "FLASH_ATTENTION_")
PYTHON_OF_COG = {"3.10", "3.11", "3.12", "3.13"}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cog.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def commands(config: dict[str, Any]) -> list[str]:
    return [step if isinstance(step, str) else step["command"] for step in config["build"]["run"]]


def refused(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in REFUSED_ENVIRONMENT)


def test_keys_are_in_cogs_schema(config: dict[str, Any]) -> None:
    assert config.keys() <= TOP_KEYS
    assert config["build"].keys() <= BUILD_KEYS


def test_versions_are_strings(config: dict[str, Any]) -> None:
    """YAML would read 3.10 as the number 3.1."""
    build = config["build"]
    assert all(isinstance(build[key], str) for key in ("python_version", "cuda", "sdk_version"))


def test_versions_match_the_requirements(config: dict[str, Any], pins: dict[str, str]) -> None:
    build = config["build"]
    assert build["gpu"] is True
    assert build["sdk_version"] == pins["cog"]
    assert f"# CUDA of torch's default build: {build['cuda']}\n" in (ROOT / "requirements.txt").read_text()
    assert build["python_version"] in PYTHON_OF_COG
    assert build["python_requirements"] == "requirements.txt"
    project = (ROOT / "pyproject.toml").read_text()
    (least,) = re.findall(r'requires-python = ">=3\.(\d+)"', project)
    assert int(build["python_version"].partition(".")[2]) >= int(least)


def test_requirements_are_exact_pins_in_cogs_syntax() -> None:
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!-]+|#.*", line), f"{line!r}: name==version, nothing else"


def test_predictor_exists(config: dict[str, Any]) -> None:
    file, _, class_name = config["predict"].partition(":")
    assert (file, class_name) == ("predict.py", "Predictor")
    assert f"class {class_name}(BasePredictor)" in (ROOT / file).read_text()


def test_environment_names_are_allowed(config: dict[str, Any]) -> None:
    for entry in config.get("environment", []):
        name, equals, _ = entry.partition("=")
        assert equals
        assert name
        assert not refused(name), name


def test_malloc_settings_match_the_server(config: dict[str, Any]) -> None:
    others = [entry for entry in config["environment"] if not entry.startswith(KERNELS)]
    assert others == [*(f"{name}={value}" for name, value in MALLOC_ENV.items()), "MAX_RUNTIME=1800"]


def test_kernel_caches_are_in_the_image(config: dict[str, Any]) -> None:
    settings = dict(entry.split("=") for entry in config["environment"] if entry.startswith(KERNELS))
    assert settings.pop("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED") == "1"
    assert settings.keys() | {"CUDA_CACHE_PATH"} == set(KERNEL_CACHE_VARIABLES), "CUDA_* cannot be set here"
    assert all(value.startswith("/src/.kernels/") for value in settings.values())
    assert len(set(settings.values())) == len(settings)
    assert "/.kernels/" in (ROOT / ".gitignore").read_text().split()
    assert not any("kernels" in line for line in (ROOT / ".dockerignore").read_text().split())


def test_pget_is_installed_at_a_pinned_release(config: dict[str, Any]) -> None:
    (step,) = [command for command in commands(config) if "replicate/pget" in command]
    assert re.search(r"releases/download/v\d+\.\d+\.\d+/pget_linux_x86_64", step)
    assert "curl -f" in step, "an error page must not be installed as the program"
    assert "/usr/local/bin/pget" in step
    assert "chmod +x" in step


def test_flash_attention_is_optional(config: dict[str, Any], pins: dict[str, str]) -> None:
    (step,) = [command for command in commands(config) if "flash-attn" in command]
    assert "|| echo" in step, "the build must go on without it"
    packages = re.findall(r'"(flash-attn[^"]*)"', step)
    assert packages
    assert all(re.search(r"==\d", package) for package in packages)
    assert not any("flash" in name for name in pins)


def test_run_steps_do_not_need_the_source(config: dict[str, Any]) -> None:
    for command in commands(config):
        assert "\n" not in command
        assert "requirements" not in command
        assert "/src" not in command


def test_weights_and_private_files_are_not_in_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"weights", "outputs", ".git", ".venv", ".env"} <= set(ignored)
    written = re.findall(r"weights\.py (?:convert|pack) weights (\S+)", (ROOT / "docs" / "weights.md").read_text())
    assert len(written) >= 2
    assert [name for name in written if not any(fnmatch(name, pattern) for pattern in ignored)] == []
    assert not any(fnmatch("weights.py", pattern) for pattern in ignored)
    assert ".cog" not in ignored, "Cog puts the requirements and the schema there"
