"""How the app on Modal is built: from variables of the machine that deploys it."""

import os
from collections.abc import Iterator
from pathlib import Path

import modal

from src.serving.cog.server import MALLOC_ENV

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = "/root"
WEIGHTS = "/weights"
GPU = os.environ.get("MODAL_GPU", "A100-80GB")
MINUTES = 60
TIMEOUT_S = 60 * MINUTES
IDLE_S = 5 * MINUTES
NAME = os.environ.get("MODAL_APP_NAME", "multitalk")
LEFT_OUT = (*(REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split(), ".cog", "docs")
PYTHON = "3.11"
OURS = ("MULTITALK_", "MAX_SECONDS", "MAX_RUNTIME", "MAX_INPUT_MB", "MAX_DOWNLOAD_SECONDS")


def packages(file: Path) -> Iterator[str]:
    """The lines of a requirements file and of those that it includes."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from packages(file.with_name(line[3:].strip()))
        elif line.strip():
            yield line.strip()


def make_image() -> modal.Image:
    """Python, the pinned packages, the code."""
    return (
        modal.Image.debian_slim(python_version=PYTHON)
        .apt_install("gcc", "libc6-dev")  # Triton builds its launcher
        .pip_install(*packages(REPOSITORY / "requirements-deploy.txt"))
        .env(environment())
        .add_local_dir(REPOSITORY, HOME, ignore=list(LEFT_OUT))
    )


def environment() -> dict[str, str]:
    """The containers' variables, those of ours among them that are set where the app is deployed."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    return {"MODEL_PATH": WEIGHTS, "MULTITALK_LOG": "json", **MALLOC_ENV, **chosen}


VOLUME = modal.Volume.from_name("multitalk-weights", create_if_missing=True)
AWS = modal.Secret.from_name("aws-secret")
HUGGING_FACE = modal.Secret.from_name("huggingface-secret")
WEB = modal.Secret.from_name("multitalk-web")
