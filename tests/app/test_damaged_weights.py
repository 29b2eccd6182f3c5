"""Weights that an interrupted or careless copy has damaged: one sentence, which names the folder or the file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.generator import load_pipeline, load_speech_encoder
from app.settings import Settings, read_settings
from tests.conftest import ROOT

MODEL = "multitalk-puppet"


def replace(path: Path) -> Path:
    """The path, without the file."""
    path.unlink()
    return path


BASE = "Wan2.1-I2V-puppet"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "page of a server": lambda path: path.write_bytes(b"<html>not found</html>"),
    "pointer of Git LFS": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 12\n"),
    "folder": lambda path: replace(path).mkdir(),
    "dangling link": lambda path: replace(path).symlink_to("/none/x"),
    "link to itself": lambda path: replace(path).symlink_to(path),
}
NETWORKS = [
    f"{BASE}/diffusion_pytorch_model-00001-of-00002.safetensors",
    f"{BASE}/models_t5_umt5-xxl-enc-bf16.pth",
    f"{BASE}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    f"{BASE}/config.json",
    f"{BASE}/google/umt5-xxl/tokenizer.json",
    "MultiTalk-puppet/multitalk.safetensors",
]
SPEECH = ["wav2vec2-puppet/model.safetensors", "wav2vec2-puppet/config.json"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = shutil.copytree(ROOT / "models" / MODEL, tmp_path / "weights")
    environ = {"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(folder), "MULTITALK_WEIGHTS_SOURCES": "none"}
    return read_settings(environ)


@pytest.mark.parametrize(
    ("file", "damage"), [*((file, "half") for file in NETWORKS), *((NETWORKS[-2], damage) for damage in DAMAGE)]
)
def test_a_damaged_network_is_named(settings: Settings, file: str, damage: str) -> None:
    check(settings, file, damage, lambda: load_pipeline(settings))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", SPEECH)
def test_a_damaged_speech_encoder_is_named(settings: Settings, file: str, damage: str) -> None:
    check(settings, file, damage, lambda: load_speech_encoder(settings, torch.device("cpu")))


def check(settings: Settings, file: str, damage: str, load: Callable[[], object]) -> None:
    """The error names MODEL_PATH and is one line."""
    DAMAGE[damage](settings.model_path / file)
    with pytest.raises(RuntimeError) as error:
        load()
    assert str(error.value).startswith(f"MODEL_PATH is {str(settings.model_path)!r}: ")
    assert len(str(error.value).splitlines()) == 1
