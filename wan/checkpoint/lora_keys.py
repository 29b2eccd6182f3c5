"""Keys of LoRA files: the layers and roles that the usual trainers' and hubs' names stand for, and what is unsupported.

A key is a prefix, a layer and a suffix. Layers are those of the checkpoint (`blocks.0.self_attn.q`) or of diffusers
(`blocks.0.attn1.to_q`), with dots or with underscores. Underscored names are looked up in a table of the network's own
names; underscores are never turned into dots, which would split `self_attn`.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from torch import nn

from wan.checkpoint.keys import diffusers_layer
from wan.modules.quantized import quantized_layers

DOWN, UP, ALPHA, UP_BIAS = "down", "up", "alpha", "up_bias"
"""Roles of a low-rank product's tensors; the other roles are the names of parameters that a full delta changes."""

_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"
"""The name that PEFT gives an adapter, `default` in `lora_A.default.weight`."""
_SUFFIXES = (
    (re.compile(rf"[._]lora(?:_linear_layer)?[._](?:down|A){_ADAPTER}(?:\.weight)?$"), DOWN),
    (re.compile(rf"[._]lora(?:_linear_layer)?[._](?:up|B){_ADAPTER}(?:\.weight)?$"), UP),
    (re.compile(rf"[._]lora[._](?:up|B){_ADAPTER}\.bias$"), UP_BIAS),
    (re.compile(r"\.alpha$"), ALPHA),
    (re.compile(r"\.(?:diff|w_norm)$"), "weight"),
    (re.compile(r"\.(?:diff_b|b_norm)$"), "bias"),
    (re.compile(r"\.diff_m$"), "modulation"),
)
_PEFT = re.compile(r"[._]lora[._][AB]\b")
_PREFIX = re.compile(
    r"^(?:base_model\.model\.|(?:model\.)?diffusion_model\.|diffusion\.model\.|(?:pipe\.)?dit\.|transformer\.|model\."
    r"|unet\.|net\.|wan\.|state_dict\.|generator(?:_ema)?\.|student\."
    r"|lora_unet_+|lora_transformer_+|lora_dit_+|lycoris_+)+"
)
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module|processor)\.")
_UNSUPPORTED = (
    (re.compile(r"\.(?:dora_scale|lora_magnitude_vector)(?:\.|$)"), "DoRA (magnitude vectors)"),
    (re.compile(r"\.lokr_"), "LoKr (Kronecker products)"),
    (re.compile(r"\.hada_"), "LoHa (Hadamard products)"),
    (re.compile(r"\.lora_mid\b"), "LoCon with Tucker decomposition"),
    (re.compile(r"\.(?:b?oft_|oft[A-Z_])"), "OFT (orthogonal rotations)"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.(?:on_input|ia3_l)(?:\.|$)"), "IA3"),
    (re.compile(r"\.vera_lambda_"), "VeRA"),
    (re.compile(r"\.lora_E(?:\.|$)"), "AdaLoRA"),
    (re.compile(r"\.(?:scale_weight|weight_scale)$"), "a LoRA in fp8 with scales"),
)
_OTHER_NETWORKS = (
    (
        re.compile(r"double_blocks|single_blocks|double_stream|single_transformer_blocks"),
        "a LoRA for Flux or HunyuanVideo",
    ),
    (re.compile(r"joint_blocks"), "a LoRA for Stable Diffusion 3"),
    (
        re.compile(r"transformer_blocks[._]\d+[._](?:attn|ff|norm)"),
        "a LoRA for LTX-Video, CogVideoX, Qwen-Image or alike",
    ),
    (
        re.compile(r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block"),
        "a LoRA for Stable Diffusion",
    ),
    (re.compile(r"vace_blocks"), "a LoRA for the layers that VACE adds to Wan"),
    (re.compile(r"^(?:lora_te|text_encoder|text_model|cond_stage_model)"), "a LoRA for a text encoder"),
)
_WAN_WIDTHS = {1536: "Wan 1.3B", 3072: "Wan 2.2 5B", 5120: "Wan 14B"}


def match_keys(model: nn.Module, keys: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield every key that belongs to the model with its layer and its role in it."""
    parameters = {name for name, _ in model.named_parameters()}
    quantized = set(quantized_layers(model))
    names = _names(parameters, quantized)
    for key in keys:
        path, role = _split(key)
        name = names.get(_layer_path(path), "")
        layer = name.removesuffix(".modulation")
        if name != layer and role == "weight":
            role = "modulation"
        parameter = f"{layer}.{'weight' if role in (DOWN, UP, ALPHA) else 'bias' if role == UP_BIAS else role}"
        if role and layer and (parameter in parameters or (layer in quantized and parameter == f"{layer}.weight")):
            yield key, (layer, role)


def layer_in_file(key: str) -> str:
    """The name that the file has for the layer of a key."""
    return _split(key)[0]


def is_peft_key(key: str) -> bool:
    """Whether a key of a matrix has PEFT's name, `lora_A` or `lora_B`, rather than kohya's."""
    return bool(_PEFT.search(key))


def unsupported_method(keys: Iterable[str]) -> str | None:
    """The adapter method other than LoRA that the keys belong to, with one of them; None for a plain LoRA."""
    for key in keys:
        for pattern, method in _UNSUPPORTED:
            if pattern.search(key):
                return f"{method}, by its key {key}"
    return None


def describe_keys(keys: Collection[str]) -> str:
    """What a file that does not belong to the network looks like."""
    if not keys:
        return "an empty file"
    for pattern, network in _OTHER_NETWORKS:
        if any(pattern.search(key) for key in keys):
            return network
    if not any(_split(key)[1] for key in keys):
        return (
            "whole weights of a network rather than a LoRA" if _has_weights(keys) else "no LoRA: no key has its suffix"
        )
    return "a LoRA for another network"


def describe_width(width: int) -> str:
    """What a LoRA looks like whose attention layers have `width` rows."""
    name = _WAN_WIDTHS.get(width)
    return f"a LoRA for a network of width {width}" + (f", which {name} has" if name else "")


def _has_weights(keys: Iterable[str]) -> bool:
    return any(key.endswith((".weight", ".bias")) for key in keys)


def _names(parameters: Iterable[str], quantized: Iterable[str]) -> dict[str, str]:
    """The network's layers and modulations by every name that a file may have for them."""
    owners = {name if name.endswith(".modulation") else name.rpartition(".")[0] for name in parameters}
    owners |= {name.rpartition(".")[0] for name in owners if name.endswith(".modulation")}
    owners |= set(quantized)
    names: dict[str, str] = {}
    for rename in (str, diffusers_layer):  # the checkpoint's own names first: diffusers swaps norm2 and norm3
        for owner in sorted(owners):
            name = rename(owner)
            names.setdefault(name, owner)
            names.setdefault(name.replace(".", "_"), owner)
    return names


def _layer_path(path: str) -> str:
    """A key's path without the prefixes of trainers and wrappers, and with the block number behind a dot."""
    path = _WRAPPERS.sub("", _PREFIX.sub("", _WRAPPERS.sub("", path)))
    return re.sub(r"^blocks_(\d+)\.", r"blocks.\1.", path)


def _split(key: str) -> tuple[str, str]:
    """The path of a key and its role; "" for an unknown suffix."""
    return next(((suffix.sub("", key), role) for suffix, role in _SUFFIXES if suffix.search(key)), (key, ""))
