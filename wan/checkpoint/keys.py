"""File keys of the parameters of transformers' and diffusers' modules in the published checkpoints.

The tables map parameter names to file keys, the direction that both loading (a lookup per parameter) and export need.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from wan.checkpoint.tensor_files import EncodedTensor, TensorSlice, TensorSource

KeyMap = Callable[[str], str]
"""Parameter name to file key."""
S = TypeVar("S", TensorSlice, EncodedTensor, Tensor, TensorSource)

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

VAE_DECODER_PREFIX = "decoder."

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

_DIFFUSERS = (
    (r"^head\.modulation$", "scale_shift_table"),
    (r"\.modulation$", ".scale_shift_table"),
    (r"^head\.head$", "proj_out"),
    (r"^(text|time)_embedding\.0$", r"condition_embedder.\1_embedder.linear_1"),
    (r"^(text|time)_embedding\.2$", r"condition_embedder.\1_embedder.linear_2"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0$", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1$", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3$", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4$", "condition_embedder.image_embedder.norm2"),
    (r"\.self_attn\b", ".attn1"),
    (r"\.cross_attn\b", ".attn2"),
    (r"\.(attn[12])\.([qkv])$", r".\1.to_\2"),
    (r"\.(attn[12])\.o$", r".\1.to_out.0"),
    (r"\.attn2\.([kv])_img$", r".attn2.add_\1_proj"),
    (r"\.attn2\.norm_k_img$", ".attn2.norm_added_k"),
    (r"\.ffn\.0$", ".ffn.net.0.proj"),
    (r"\.ffn\.2$", ".ffn.net.2"),
    (r"\.norm3$", ".norm2"),
)

IMAGE_IGNORED_PREFIXES = ("textual.", "log_scale", "visual.head")
"""Keys of the CLIP file that are not read; the last visual block, whose prefix has a number, is not read either."""


def text_encoder_key(name: str) -> str:
    """Key in the T5 file of a `UMT5EncoderModel` parameter."""
    return _rename(name, _TEXT)


def image_encoder_key(name: str) -> str:
    """Key in the CLIP file, after `split_qkv`, of a `CLIPVisionModel` parameter."""
    return _rename(name, _IMAGE)


def diffusers_layer(name: str) -> str:
    """Name in diffusers' `WanTransformer3DModel` of a layer or modulation; layers that MultiTalk adds keep theirs."""
    return _rename(name, _DIFFUSERS)


def vae_key(num_res_blocks: int) -> KeyMap:
    """Keys in the VAE file of `AutoencoderKLWan` parameters; there one index runs over the layers of all up blocks."""
    stride = num_res_blocks + 2

    def flatten_index(match: re.Match[str]) -> str:
        block, layer = int(match[1]), match[2]
        index = num_res_blocks + 1 if layer == "upsamplers.0" else int(layer.removeprefix("resnets."))
        return f".upsamples.{block * stride + index}."

    def to_file_key(name: str) -> str:
        return re.sub(r"\.up_blocks\.(\d+)\.(resnets\.\d+|upsamplers\.0)\.", flatten_index, _rename(name, _VAE))

    return to_file_key


def split_qkv(tensors: Mapping[str, S]) -> dict[str, S]:
    """Split the rows of CLIP's fused `to_qkv` into q, k and v, and reshape its embeddings as transformers has them.

    Tensors that are split already are returned unchanged.
    """
    split: dict[str, S] = {}
    for name, tensor in tensors.items():
        if ".attn.to_qkv." in name:
            third = tensor.shape[0] // 3
            for i, projection in enumerate("qkv"):
                split[name.replace("to_qkv", projection)] = tensor[i * third : (i + 1) * third]
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
            qkv = [tensors[name.replace(".attn.q.", f".attn.{projection}.")] for projection in "qkv"]
            merged[name.replace(".attn.q.", ".attn.to_qkv.")] = torch.cat(qkv)
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
