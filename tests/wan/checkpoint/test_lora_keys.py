"""Names of LoRA keys: every style merges to the same weights; other methods and other networks' files are named."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.wan.checkpoint.test_lora import CONFIG, LAYER, PLAIN, RANK, bits, changed, random_tensor, renamed
from wan.checkpoint.keys import diffusers_layer
from wan.checkpoint.lora import Lora, LoraError, LoraManager
from wan.checkpoint.lora_keys import match_keys
from wan.modules.transformer import MultiTalkTransformer

DIFFUSERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.0.cross_attn.k": "blocks.0.attn2.to_k",
    "blocks.1.cross_attn.v_img": "blocks.1.attn2.add_v_proj",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "head.head": "proj_out",
}
DIFFS = {
    "blocks.0.norm3": "blocks.0.norm2",
    "blocks.1.self_attn.norm_q": "blocks.1.attn1.norm_q",
    "blocks.1.cross_attn.norm_k_img": "blocks.1.attn2.norm_added_k",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "blocks.1.modulation": "blocks.1.scale_shift_table",
    "head.modulation": "scale_shift_table",
}
Style = Callable[[str], str]


def in_diffusers(layer: str) -> str:
    return DIFFUSERS.get(layer) or DIFFS[layer]


def underscored(layer: str) -> str:
    return layer.replace(".", "_")


def prefixed(prefix: str, name: Style = str) -> Style:
    return lambda layer: prefix + name(layer)


PATHS: dict[str, Style] = {
    "peft": prefixed("base_model.model."),
    "peft of diffusers": prefixed("base_model.model.", in_diffusers),
    "peft of compiled": prefixed("base_model.model._orig_mod."),
    "comfyui checkpoint": prefixed("model.diffusion_model."),
    "peft of comfyui": prefixed("base_model.model.diffusion_model."),
    "kohya": prefixed("lora_unet_", underscored),
    "kohya, two underscores": prefixed("lora_unet__", underscored),
    "kohya, dots": prefixed("lora_unet_"),
    "kohya, dots after the block": lambda layer: "lora_unet_" + layer.replace("blocks.", "blocks_"),
    "kohya of diffusers": prefixed("lora_unet_", lambda layer: underscored(in_diffusers(layer))),
    "kohya of transformer": prefixed("lora_transformer_", lambda layer: underscored(in_diffusers(layer))),
    "lycoris": prefixed("lycoris_", underscored),
    "diffusers": prefixed("transformer.", in_diffusers),
    "diffusers without prefix": in_diffusers,
    "pipe.dit": prefixed("pipe.dit."),
    "module": prefixed("module.diffusion_model."),
    "net": prefixed("net."),
    "kohya of dit": prefixed("lora_dit_", underscored),
    "distillation": prefixed("generator.model."),
    "distillation, averaged": prefixed("generator_ema._fsdp_wrapped_module."),
}
SUFFIXES = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "dots": ("lora.down.weight", "lora.up.weight"),
    "peft": ("lora_A.weight", "lora_B.weight"),
    "peft default": ("lora_A.default.weight", "lora_B.default.weight"),
    "peft adapter": ("lora_A.my_style.weight", "lora_B.my_style.weight"),
    "bare": ("lora_down", "lora_up"),
    "bare A and B": ("lora_A", "lora_B"),
    "attention processors": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


@pytest.fixture(scope="module")
def shared_model() -> MultiTalkTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiTalkTransformer(CONFIG).bfloat16().eval().requires_grad_(False)


@pytest.fixture
def model(shared_model: MultiTalkTransformer) -> Iterator[MultiTalkTransformer]:
    before = bits(shared_model)
    yield shared_model
    shared_model.load_state_dict(before)


def lora_file(
    model: MultiTalkTransformer, path: Style = str, ends: tuple[str, str] = SUFFIXES["kohya"]
) -> dict[str, Tensor]:
    """A LoRA of all of `DIFFUSERS`, with a rank and an alpha of its own per layer, and full deltas of `DIFFS`."""
    file = {}
    for seed, layer in enumerate(DIFFUSERS):
        rows, columns = model.get_parameter(f"{layer}.weight").shape
        rank = 2 + seed % 3
        file[f"{path(layer)}.{ends[0]}"] = random_tensor(rank, columns, seed=2 * seed)
        file[f"{path(layer)}.{ends[1]}"] = random_tensor(rows, rank, seed=2 * seed + 1)
        if seed % 2:
            file[f"{path(layer)}.alpha"] = torch.tensor(1.0 + seed)
    for layer in DIFFS:
        parameter = layer if layer.endswith("modulation") else f"{layer}.weight"
        file[f"{path(layer)}.diff"] = random_tensor(*model.get_parameter(parameter).shape)
    return file


def merged(model: MultiTalkTransformer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    loras = LoraManager()
    loras.set_active(model, [Lora(weights=tensors, strength=0.7)])
    weights = bits(model)
    loras.unload(model)
    return weights


@pytest.fixture(scope="module")
def expected(shared_model: MultiTalkTransformer) -> dict[str, Tensor]:
    weights = merged(shared_model, lora_file(shared_model))
    owners = {name if name.endswith("modulation") else f"{name}.weight" for name in (*DIFFUSERS, *DIFFS)}
    assert changed(weights, shared_model) == owners
    return weights


@pytest.mark.parametrize("path", PATHS)
def test_paths_merge_to_the_same_weights(
    model: MultiTalkTransformer, expected: dict[str, Tensor], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = merged(model, lora_file(model, PATHS[path]))
    assert {name for name in weights if not torch.equal(weights[name], expected[name])} == set()
    assert "ignored" not in caplog.text


@pytest.mark.parametrize("ends", SUFFIXES)
def test_suffixes_merge_to_the_same_weights(
    model: MultiTalkTransformer, expected: dict[str, Tensor], ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = merged(model, lora_file(model, PATHS["diffusers"], SUFFIXES[ends]))
    assert {name for name in weights if not torch.equal(weights[name], expected[name])} == set()
    assert "ignored" not in caplog.text


@pytest.mark.parametrize("layer", ["self_attn.q", "self_attn.o", "cross_attn.k_img", "ffn.0", "ffn.2"])
def test_peft_bias_is_scaled_as_the_product(model: MultiTalkTransformer, layer: str) -> None:
    name = f"blocks.1.{layer}"
    rows, columns = model.get_parameter(f"{name}.weight").shape
    bias = random_tensor(rows, seed=5)
    tensors = {
        f"{name}.lora_A.weight": random_tensor(RANK, columns),
        f"{name}.lora_B.weight": random_tensor(rows, RANK),
        f"{name}.lora_B.bias": bias,
        f"{name}.alpha": torch.tensor(2.0),
    }
    before = model.get_parameter(f"{name}.bias").float()
    LoraManager().set_active(model, [Lora(weights=tensors, strength=0.5)])
    assert torch.equal(model.get_parameter(f"{name}.bias"), (before + 0.5 * 2 / RANK * bias).bfloat16())


def test_table_covers_the_layers_of_diffusers() -> None:
    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=64, num_layers=2, image_dim=64, added_kv_proj_dim=128, ffn_dim=256
        )
        ours = MultiTalkTransformer(CONFIG)
    names = {name: parameter.ndim for name, parameter in theirs.named_parameters()}
    own = [name for name, _ in ours.named_parameters() if "audio" not in name and "norm_x" not in name]
    layers = {name if "modulation" in name else name.rpartition(".")[0] for name in own}
    assert {diffusers_layer(layer) for layer in layers} == {
        name if "scale_shift_table" in name else name.rpartition(".")[0] for name in names
    }
    keys = [f"transformer.{name.rpartition('.')[0]}.lora_A.weight" for name in names if name.endswith(".weight")]
    matches = dict(match_keys(ours, keys))
    assert set(matches) == set(keys)
    assert {key for key, (layer, _) in matches.items() if diffusers_layer(layer) not in key} == set()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("lokr_w1", "LoKr"),
        ("lokr_w2_a", "LoKr"),
        ("hada_w1_a", "LoHa"),
        ("hada_w2_b", "LoHa"),
        ("lora_mid.weight", "Tucker"),
        ("oft_blocks", "OFT"),
        ("oft_R.default.weight", "OFT"),
        ("boft_R.default", "OFT"),
        ("a1.weight", "GLoRA"),
        ("ia3_l.default", "IA3"),
        ("on_input", "IA3"),
        ("lora_E.default", "AdaLoRA"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "transformer.", "lycoris_"])
def test_other_methods_are_refused_by_name(model: MultiTalkTransformer, suffix: str, name: str, prefix: str) -> None:
    before = bits(model)
    tensors = {**PLAIN, f"{prefix}{LAYER if '_' not in prefix else underscored(LAYER)}.{suffix}": torch.ones(192, 1)}
    with pytest.raises(LoraError, match=rf"this is {name}.*{suffix}|this is .*{name}.*{suffix}"):
        LoraManager().set_active(model, [Lora(weights=tensors)])
    assert changed(before, model) == set()


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_deltas_of_another_task_are_ignored_with_a_warning(
    model: MultiTalkTransformer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = bits(model)
    tensors = {
        **PLAIN,
        "patch_embedding.diff": torch.zeros(192, 16, 1, 2, 2),
        "img_emb.proj.1.lora_down.weight": random_tensor(RANK, 7),
        "img_emb.proj.1.lora_up.weight": random_tensor(192, RANK),
        "head.head.diff": torch.zeros(3, 192),
    }
    LoraManager().set_active(model, [Lora(weights=renamed(tensors, prefix))])
    assert changed(before, model) == {f"{LAYER}.weight"}
    assert "3 deltas of another shape are ignored" in caplog.text
    assert "patch_embedding.weight is [192, 36, 1, 2, 2], not [192, 16, 1, 2, 2]" in caplog.text


def width_1536(layer: str) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_down.weight": torch.zeros(RANK, 1536),
        f"{layer}.lora_up.weight": torch.zeros(1536, RANK),
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "an empty file"),
        ({"blocks.0.self_attn.q.weight": torch.ones(192, 192)}, "whole weights of a network"),
        ({"transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight": torch.ones(4, 192)}, "Flux"),
        ({"diffusion_model.double_blocks.3.img_attn.qkv.lora_A.weight": torch.ones(4, 192)}, "Flux or HunyuanVideo"),
        ({"lora_unet_down_blocks_1_attn_to_q.lora_down.weight": torch.ones(4, 192)}, "Stable Diffusion"),
        ({"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 192)}, "LTX-Video"),
        ({"lora_te1_text_model_0.lora_down.weight": torch.ones(4, 192)}, "text encoder"),
        ({"some.layer.lora_down.weight": torch.ones(4, 192)}, "another network"),
        ({"epoch": torch.ones(1)}, "no LoRA"),
        (width_1536(LAYER), "width 1536, which Wan 1.3B has"),
        ({**width_1536(LAYER), "blocks.0.norm3.diff": torch.zeros(1536), "head.head.diff_b": torch.zeros(64)}, "1536"),
    ],
)
def test_file_for_another_network_is_described(
    model: MultiTalkTransformer, tensors: dict[str, Tensor], words: str
) -> None:
    before = bits(model)
    with pytest.raises(LoraError, match=f"it looks like .*{words}"):
        LoraManager().set_active(model, [Lora(weights=tensors)])
    assert changed(before, model) == set()


def test_names_stay_unique_for_a_deep_network() -> None:
    with torch.device("meta"):
        model = MultiTalkTransformer(replace(CONFIG, num_layers=13))
    layers = [name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".weight")]
    for rename in (str, underscored, diffusers_layer, lambda layer: underscored(diffusers_layer(layer))):
        matches = dict(match_keys(model, [f"{rename(layer)}.lora_up.weight" for layer in layers]))
        assert [layer for layer, _ in matches.values()] == layers


def test_damaged_product_is_refused_though_others_fit(
    model: MultiTalkTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {
        **PLAIN,
        "blocks.0.ffn.0.lora_A.weight": random_tensor(4, 192),
        "blocks.0.ffn.0.lora_B.weight": random_tensor(CONFIG.ffn_dim, 5),
    }
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(LoraError, match=r"matrices of one rank, not \[\d+, 5\] @ \[4, 192\]"),
    ):
        LoraManager().set_active(model, [Lora(weights=tensors)])
