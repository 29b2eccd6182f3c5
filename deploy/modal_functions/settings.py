"""Image, volume, secrets and resources of the Modal app, from environment variables of the machine that deploys."""

import os
from pathlib import Path

import modal

from src.serving.cog.server import MALLOC_ENV

REPOSITORY = Path(__file__).resolve().parents[2]
WORK_DIR = "/root"
WEIGHTS_DIR = "/weights"
GPU = os.environ.get("MODAL_GPU", "A100-80GB")
TIMEOUT_S = 60 * 60
SCALEDOWN_S = 5 * 60
APP_NAME = os.environ.get("MODAL_APP_NAME", "multitalk")
IGNORED = (*(REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split(), ".cog", "docs")
PYTHON = "3.11"
FORWARDED_PREFIXES = ("MULTITALK_", "MAX_SECONDS", "MAX_RUNTIME", "MAX_INPUT_MB", "MAX_LORA_MB", "MAX_DOWNLOAD_SECONDS")
"""Variables that begin with one of these are copied from the machine that deploys into the containers."""

AWS_SECRET, HUGGING_FACE_SECRET, WEB_SECRET = "aws-secret", "huggingface-secret", "multitalk-web"
SECRETS = f"{AWS_SECRET},{HUGGING_FACE_SECRET},{WEB_SECRET}"
KERNELS_DIR = f"{WEIGHTS_DIR}/.kernels"
KERNEL_CACHES = {
    "TRITON_CACHE_DIR": f"{KERNELS_DIR}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{KERNELS_DIR}/inductor",
    "CUDA_CACHE_PATH": f"{KERNELS_DIR}/cuda",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": f"{KERNELS_DIR}/flash-attention",
}
"""Compiled kernels stay on the volume, so that a new container does not compile them again."""

WEIGHTS_VOLUME = modal.Volume.from_name("multitalk-weights", create_if_missing=True)


def secrets(*names: str) -> list[modal.Secret]:
    """Those of the named secrets that MODAL_SECRETS lists: Modal refuses to deploy with one that does not exist."""
    chosen = {name.strip() for name in os.environ.get("MODAL_SECRETS", SECRETS).split(",")} - {""}
    if unknown := chosen - set(SECRETS.split(",")):
        raise ValueError(f"MODAL_SECRETS names {', '.join(sorted(unknown))}; allowed are {SECRETS}")
    return [modal.Secret.from_name(name) for name in names if name in chosen]


def make_image() -> modal.Image:
    """Python, the pinned packages with the `deploy` extra, the code."""
    return (
        modal.Image.debian_slim(python_version=PYTHON)
        .apt_install("gcc", "libc6-dev")  # Triton compiles its launcher
        .pip_install_from_requirements(str(REPOSITORY / "requirements.txt"))
        .pip_install_from_pyproject(str(REPOSITORY / "pyproject.toml"), optional_dependencies=["deploy"])
        .env(container_environment())
        .add_local_dir(REPOSITORY, WORK_DIR, ignore=list(IGNORED))
    )


def container_environment() -> dict[str, str]:
    """Environment variables of the containers."""
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED_PREFIXES)}
    return {"MODEL_PATH": WEIGHTS_DIR, "MULTITALK_LOG": "json", **MALLOC_ENV, **KERNEL_CACHES, **forwarded}
