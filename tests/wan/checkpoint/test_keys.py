"""File keys and shapes of the full-size networks, built on the meta device, equal those of the published files."""

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from wan.checkpoint import keys
from wan.checkpoint.component import check_keys
from wan.checkpoint.components import is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.modules.image import build_image_encoder
from wan.modules.text import build_text_encoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import build_vae

PUBLISHED = json.loads(lzma.decompress((Path(__file__).parents[2] / "data" / "checkpoint_shapes.json.xz").read_bytes()))
CONFIG = WAN_CONFIGS["multitalk-14B"]


def shapes(build: Callable[[], nn.Module], to_file_key: keys.KeyMap = str) -> dict[str, list[int]]:
    with torch.device("meta"):
        state = build().state_dict()
    return {to_file_key(name): list(tensor.shape) for name, tensor in state.items()}


def published(component: str) -> dict[str, list[int]]:
    return {name: shape for name, (shape, _) in PUBLISHED[component].items()}


def test_transformer_keys() -> None:
    actual = shapes(lambda: MultiTalkTransformer(CONFIG.transformer))
    assert actual == published("dit")
    assert len(actual) == 1633


def test_fp32_params_have_published_keys() -> None:
    kept = {name for name in published("dit") if is_fp32_param(name)}
    assert {"time_embedding.0.weight", "time_projection.1.bias", "head.head.weight", "head.modulation"} <= kept
    assert "blocks.39.modulation" in kept
    assert "blocks.0.self_attn.q.weight" not in kept


def test_text_encoder_keys() -> None:
    assert shapes(lambda: build_text_encoder(CONFIG.text_encoder), keys.text_encoder_key) == published("t5")


def test_vae_keys() -> None:
    assert shapes(lambda: build_vae(CONFIG.vae), keys.vae_key(CONFIG.vae.num_res_blocks)) == published("vae")


def test_image_encoder_keys() -> None:
    file = {name: torch.empty(shape, device="meta") for name, shape in published("clip").items()}
    expected = {name: list(tensor.shape) for name, tensor in keys.split_qkv(file).items()}
    actual = shapes(lambda: build_image_encoder(CONFIG.image_encoder), keys.image_encoder_key)
    assert actual.items() <= expected.items()
    ignored = (*keys.IMAGE_IGNORED_PREFIXES, "visual.transformer.31.")
    assert all(name.startswith(ignored) for name in set(expected) - set(actual))


def test_merge_qkv_inverts_split_qkv() -> None:
    file = {
        name: torch.randn(shape)
        for name, shape in published("clip").items()
        if name.startswith(("visual.transformer.0.attn", "visual.cls", "visual.pos"))
    }
    merged = keys.merge_qkv(keys.split_qkv(file))
    assert merged.keys() == file.keys()
    assert all(torch.equal(merged[name], file[name]) for name in file)


@pytest.mark.parametrize("difference", ["missing", "unknown"])
def test_missing_and_unknown_keys_are_listed(difference: str) -> None:
    expected = set(published("vae"))
    found = expected - {"conv1.bias"} if difference == "missing" else expected | {"conv9.bias"}
    with pytest.raises(ValueError, match=rf"1 {difference}: conv[19]\.bias"):
        check_keys(expected, found, "the VAE")
