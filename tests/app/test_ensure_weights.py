"""Which bundles are downloaded beside weights of other packages."""

from pathlib import Path

import pytest
import torch

import weights
from app.generator import ensure_weights
from app.settings import read_settings
from tests.wan.checkpoint.test_repackaged import save
from wan.configs import WAN_CONFIGS

CONFIG = WAN_CONFIGS["multitalk-14B"].transformer


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the bundles that would be downloaded; the download itself fails."""
    names: list[str] = []

    def fail(folder: Path, bundles: list[str]) -> None:
        names.extend(bundles)
        raise weights.WeightsError("no network")

    monkeypatch.setattr(weights, "ensure", fail)
    return names


def start(folder: Path) -> None:
    ensure_weights(read_settings({"MULTITALK_MODEL": "multitalk-14B", "MODEL_PATH": str(folder)}))


def test_base_of_another_package_is_not_downloaded(tmp_path: Path, requested: list[str]) -> None:
    base = {f"blocks.{i}.x": torch.zeros(1) for i in range(CONFIG.num_layers)}
    base |= {"patch_embedding.weight": torch.zeros(CONFIG.dim, CONFIG.in_dim, 1, 2, 2)}
    save(tmp_path / "wan2.1_i2v_480p_14B_bf16.safetensors", {**base, "img_emb.proj.1.weight": torch.zeros(1)})
    with pytest.raises(weights.WeightsError, match=r"no network; .*480p_14B_bf16\.safetensors \(base transformer\)"):
        start(tmp_path)
    assert requested == ["MeiGen-MultiTalk", "chinese-wav2vec2-base", "umt5-xxl-tokenizer"]


def test_wrong_base_is_named_and_the_bundles_are_downloaded(
    tmp_path: Path, requested: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "x.safetensors", {"patch_embedding.weight": torch.zeros(1536, 16, 1, 2, 2)})
    with pytest.raises(weights.WeightsError, match=r"no network; .*x\.safetensors \(a T2V transformer, 1\.3B"):
        start(tmp_path)
    assert requested == list(weights.DEFAULT_NAMES)
    assert "lacks weights; " in caplog.text
