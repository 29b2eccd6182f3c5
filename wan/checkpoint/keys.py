"""Names of the library modules' parameters in the published files.

The tables go from our side to the file's, so that one direction both loads (look every parameter up) and writes.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from wan.checkpoint.tensor_files import TensorSlice, TensorSource

KeyMap = Callable[[str], str]
S = TypeVar("S", TensorSlice, Tensor, TensorSource)

_TEXT = (
    (r"^(shared|encoder\.embed_tokens)\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (
        r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"blocks.\1.pos_embedding.embedding.",
    ),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.", r"blocks.\1.attn."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"blocks.\1.norm1."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"blocks.\1.norm2."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", r"blocks.\1.ffn.gate.0."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", r"blocks.\1.ffn.fc1."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
)

_IMAGE = (
    (r"^embeddings\.class_embedding$", "visual.cls_embedding"),
    (r"^embeddings\.position_embedding\.weight$", "visual.pos_embedding"),
    (r"^embeddings\.patch_embedding\.", "visual.patch_embedding."),
    (r"^pre_layrnorm\.", "visual.pre_norm."),
    (r"^post_layernorm\.", "visual.post_norm."),
    (r"^encoder\.layers\.", "visual.transformer."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)

VAE_DECODER = "decoder."
"""Beginning of the published names of the VAE's decoder."""

_VAE = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"(\.(?:middle\.[02]|downsamples\.\d+|resnets\.\d+))\.norm1\.", r"\1.residual.0."),
    (r"(\.(?:middle\.[02]|downsamples\.\d+|resnets\.\d+))\.conv1\.", r"\1.residual.2."),
    (r"(\.(?:middle\.[02]|downsamples\.\d+|resnets\.\d+))\.norm2\.", r"\1.residual.3."),
    (r"(\.(?:middle\.[02]|downsamples\.\d+|resnets\.\d+))\.conv2\.", r"\1.residual.6."),
)

IMAGE_UNUSED = ("textual.", "log_scale", "visual.head")
"""Parts of the CLIP file that nothing here reads; its last visual block is another, by number."""


def text_encoder_key(name: str) -> str:
    """Name in the T5 file of a `UMT5EncoderModel` parameter."""
    return _rename(name, _TEXT)


def image_encoder_key(name: str) -> str:
    """Name in the CLIP file, after `split_qkv`, of a `CLIPVisionModel` parameter."""
    return _rename(name, _IMAGE)


def vae_key(num_res_blocks: int) -> KeyMap:
    """Name in the VAE file of an `AutoencoderKLWan` parameter; its decoder numbers all up blocks in one list."""
    stride = num_res_blocks + 2

    def flat(match: re.Match[str]) -> str:
        block, part = int(match[1]), match[2]
        place = num_res_blocks + 1 if part == "upsamplers.0" else int(part.removeprefix("resnets."))
        return f".upsamples.{block * stride + place}."

    def name(ours: str) -> str:
        return re.sub(r"\.up_blocks\.(\d+)\.(resnets\.\d+|upsamplers\.0)\.", flat, _rename(ours, _VAE))

    return name


def split_qkv(tensors: Mapping[str, S]) -> dict[str, S]:
    """CLIP's `to_qkv` as q, k and v, the thirds of its rows, and its embeddings in the library's shapes.

    What is split already stays as it is.
    """
    split: dict[str, S] = {}
    for name, tensor in tensors.items():
        if ".attn.to_qkv." in name:
            third = tensor.shape[0] // 3
            for i, letter in enumerate("qkv"):
                split[name.replace("to_qkv", letter)] = tensor[i * third : (i + 1) * third]
        elif name == "visual.cls_embedding":
            split[name] = tensor.reshape(tensor.shape[-1])
        elif name == "visual.pos_embedding":
            split[name] = tensor.reshape(*tensor.shape[-2:])
        else:
            split[name] = tensor
    return split


def merge_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_qkv`."""
    merged = {}
    for name, tensor in tensors.items():
        if ".attn.q." in name:
            parts = [tensors[name.replace(".attn.q.", f".attn.{letter}.")] for letter in "qkv"]
            merged[name.replace(".attn.q.", ".attn.to_qkv.")] = torch.cat(parts)
        elif name == "visual.cls_embedding":
            merged[name] = tensor[None, None]
        elif name == "visual.pos_embedding":
            merged[name] = tensor[None]
        elif ".attn.k." not in name and ".attn.v." not in name:
            merged[name] = tensor
    return merged


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
