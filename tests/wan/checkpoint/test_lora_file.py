"""LoRA files: alpha from metadata where there is no tensor for it, and files that cannot be read."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.wan.checkpoint.test_lora import CONFIG, LAYER, PLAIN, RANK, product
from wan.checkpoint.lora import Lora, LoraError, LoraManager
from wan.checkpoint.lora_file import MAX_TENSORS, read_lora
from wan.modules.transformer import MultiTalkTransformer

PEFT = product("lora_A.weight", "lora_B.weight")


def diffusers(**config: Any) -> dict[str, str]:
    """Metadata as diffusers writes it, which it tests against PEFT's configuration."""
    return {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in config.items()})}


def scale_of(path: Path) -> float:
    """By what factor the file's product is added."""
    model = MultiTalkTransformer(replace(CONFIG, num_layers=2)).eval().requires_grad_(False)
    weight = model.get_parameter(f"{LAYER}.weight")
    torch.nn.init.zeros_(weight)
    LoraManager().set_active(model, [Lora(weights=path)])
    down, up = PLAIN.values()
    return round((weight.norm() / (up @ down).norm()).item(), 4)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1),
        ({"r": RANK, "lora_alpha": RANK}, 1),
        ({"r": RANK, "lora_alpha": 2}, 2 / RANK),
        ({"r": 99, "lora_alpha": 8.0}, 8 / RANK),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / RANK**0.5),
        ({"lora_alpha": 8, "alpha_pattern": {}, "rank_pattern": {LAYER: RANK}}, 8 / RANK),
        ({"lora_alpha": 8, "alpha_pattern": {LAYER: 1}}, 1 / RANK),
        ({"lora_alpha": 8, "alpha_pattern": {"k_img": 1}}, 1 / RANK),
        ({"lora_alpha": 8, "alpha_pattern": {"^" + LAYER.replace(".", "\\.") + "$": 1}}, 1 / RANK),
        ({"lora_alpha": 8, "alpha_pattern": {"img": 1, "blocks.0.cross_attn.k_img": 1}}, 8 / RANK),
        ({"lora_alpha": 0}, 0),
        ({"lora_alpha": None}, 1),
        ({"lora_alpha": 8, "init_lora_weights": True, "use_dora": False}, 8 / RANK),
    ],
)
def test_alpha_of_diffusers_and_peft(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file(PEFT, path, diffusers(**config))
    assert scale_of(path) == round(scale, 4)
    save_file(PEFT, path)
    assert scale_of(path) == 1
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert scale_of(path) == round(scale, 4)


def test_adapter_config_belongs_to_one_file(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2 * RANK}))
    save_file(PEFT, tmp_path / "style.safetensors")
    assert scale_of(tmp_path / "style.safetensors") == 2, "renamed, but alone"
    save_file(PEFT, tmp_path / "adapter_model.safetensors")
    assert scale_of(tmp_path / "adapter_model.safetensors") == 2
    assert scale_of(tmp_path / "style.safetensors") == 1
    save_file(PEFT, tmp_path / "adapter_model.safetensors", diffusers(lora_alpha=RANK))
    assert scale_of(tmp_path / "adapter_model.safetensors") == 1, "the file's own metadata wins"


def test_a_changed_adapter_config_takes_effect(tmp_path: Path) -> None:
    path, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file(PEFT, path)
    model, loras = MultiTalkTransformer(CONFIG).eval().requires_grad_(False), LoraManager()
    weights = []
    for alpha in (1, 2, 2):
        config.write_text(json.dumps({"lora_alpha": alpha}))
        loras.set_active(model, [Lora(weights=path)])
        weights.append(model.get_parameter(f"{LAYER}.weight").clone())
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


@pytest.mark.parametrize(
    ("tensors", "alpha", "scale"),
    [
        (PLAIN, "2", 2 / RANK),
        (PLAIN, "2.0", 2 / RANK),
        (PLAIN, "None", 1),
        (PLAIN, "0", 1),
        ({**PLAIN, f"{LAYER}.alpha": torch.tensor(1.0)}, "2", 1 / RANK),
        (PEFT, "2", 1),  # converters multiply it into the matrices and keep the metadata
    ],
)
def test_alpha_of_kohya(tmp_path: Path, tensors: dict[str, torch.Tensor], alpha: str, scale: float) -> None:
    save_file(tensors, tmp_path / "x.safetensors", {"ss_network_alpha": alpha, "ss_network_dim": str(RANK)})
    assert scale_of(tmp_path / "x.safetensors") == round(scale, 4)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata is not valid JSON"),
        ({"lora_adapter_metadata": "[" * 100_000}, "lora_adapter_metadata is not valid JSON"),
        ({"lora_adapter_metadata": "[1]"}, r"lora_adapter_metadata is \[1\]; an object is needed"),
        (diffusers(lora_alpha="much"), "lora_alpha in its metadata is 'much'; a number is needed"),
        (diffusers(lora_alpha=float("nan")), "lora_alpha in its metadata is nan"),
        (diffusers(lora_alpha=[1]), r"lora_alpha in its metadata is \[1\]"),
        (diffusers(alpha_pattern=[1]), "alpha_pattern in its metadata"),
        (diffusers(alpha_pattern={LAYER: "x"}), "alpha_pattern in its metadata is 'x'"),
        (diffusers(alpha_pattern={"(a+)+b": 1}), r"regular expressions, allowed are names of layers: \(a\+\)\+b"),
        (diffusers(use_dora=True), "DoRA"),
        (diffusers(init_lora_weights="pissa_niter_16"), "'pissa_niter_16', which also changes the base weights"),
        ({"ss_network_alpha": "high"}, "ss_network_alpha in its metadata is 'high'"),
    ],
)
def test_invalid_metadata_is_refused(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    save_file(PEFT, tmp_path / "x.safetensors", metadata)
    with pytest.raises(LoraError, match=rf"^x\.safetensors.*{words}"):
        read_lora(Lora(weights=tmp_path / "x.safetensors"))


def header(content: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"\(it is empty\)"),
        (b"PK\x03\x04" + bytes(50), "PyTorch file; convert it to safetensors"),
        (b"\x80\x02}q\x00.", "PyTorch file; convert it to safetensors"),
        (b"GGUF" + bytes(50), "looks like a GGUF file"),
        (b"<html>404</html>" * 9, "looks like a web page"),
        (struct.pack("<Q", 2**63) + bytes(50), "cannot be read"),
        (header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}), "cannot be read"),
        (header({"a": {"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "cannot be read"),
        (
            header({f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(MAX_TENSORS + 1)}),
            "has 20,001 tensors; at most 20,000 are allowed",
        ),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(LoraError, match=rf"^file1 .*{words}"):
        read_lora(Lora(weights=path, name="file1"))


def test_long_names_are_cut_in_messages(tmp_path: Path) -> None:
    save_file({"k" * 10**6 + ".diff": torch.ones(1)}, tmp_path / "x.safetensors")
    model = MultiTalkTransformer(CONFIG)
    with pytest.raises(LoraError, match="none of its 1 keys") as caught:
        LoraManager().set_active(model, [Lora(weights=tmp_path / "x.safetensors")])
    assert len(str(caught.value)) < 1000
