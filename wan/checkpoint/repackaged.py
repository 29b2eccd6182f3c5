"""Weight files of other packages (ComfyUI and others): original keys by their contents, and what a file is."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from wan.checkpoint.keys import image_encoder_key, text_encoder_key, vae_key
from wan.checkpoint.tensor_files import (
    CheckpointError,
    EncodedTensor,
    TensorSlice,
    TensorSource,
    open_tensors,
    read_into,
    truncate_names,
)
from wan.configs.schema import ModelConfig

Tensors = dict[str, TensorSource]

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
_MARKERS = ("scaled_fp8", "spiece_model")
"""Tensors that hold no weights."""
_SCALES = (".scale_weight", ".weight_scale")
_ACTIVATION_SCALES = (".scale_input", ".input_scale", ".comfy_quant")
_LORA = re.compile(r"\.(lora_|lora\.|lokr_|hada_|dora_scale|diff$|diff_b$)|^(lora_unet|lycoris)_")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SIZES = {1536: "1.3B", 3072: "5B", 5120: "14B"}
"""Wan's models by their width."""
_SUBFOLDERS = ("diffusion_models", "unet", "text_encoders", "clip", "clip_vision", "vae")
"""Those of ComfyUI's folder `models`."""
_SUFFIXES = (".safetensors", ".gguf", ".pth")
_SHARD_PREFIX = "diffusion_pytorch_model"
_WORDS = {
    "transformer": "base transformer",
    "audio": "audio layers",
    "text_encoder": "text encoder",
    "image_encoder": "image encoder",
    "vae": "VAE",
}
COMPONENT_KINDS = tuple(_WORDS)
"""What `identify` returns for a file that belongs to the model."""
_GGUF_TEXT = (
    (r"^token_embd\.", "token_embedding."),
    (r"^enc\.output_norm\.", "norm."),
    (r"^enc\.blk\.(\d+)\.attn_rel_b\.", r"blocks.\1.pos_embedding.embedding."),
    (r"^enc\.blk\.(\d+)\.attn_norm\.", r"blocks.\1.norm1."),
    (r"^enc\.blk\.(\d+)\.ffn_norm\.", r"blocks.\1.norm2."),
    (r"^enc\.blk\.(\d+)\.attn_([qkvo])\.", r"blocks.\1.attn.\2."),
    (r"^enc\.blk\.(\d+)\.ffn_gate\.", r"blocks.\1.ffn.gate.0."),
    (r"^enc\.blk\.(\d+)\.ffn_up\.", r"blocks.\1.ffn.fc1."),
    (r"^enc\.blk\.(\d+)\.ffn_down\.", r"blocks.\1.ffn.fc2."),
)


def open_repackaged(path: Path) -> Tensors:
    """The tensors of a file in any known packaging by their original keys, fp8 weights with their scales."""
    return fold_scales(original_keys(open_tensors(path)), str(path))


def original_keys(tensors: Mapping[str, TensorSource]) -> Tensors:
    """Strip prefixes of the transformer and the VAE, and rename transformers', diffusers' and GGUF's names."""
    renamed = {key: tensor for key, tensor in tensors.items() if key not in _MARKERS}
    prefix = next((each for each in _PREFIXES if any(key.startswith(each) for key in renamed)), "")
    renamed = {key.removeprefix(prefix): tensor for key, tensor in renamed.items()}
    if "encoder.final_layer_norm.weight" in renamed:
        return {text_encoder_key(k): t for k, t in renamed.items() if not k.startswith(("decoder.", "lm_head."))}
    if any(key.startswith("vision_model.") for key in renamed):
        vision = {k.removeprefix("vision_model."): t for k, t in renamed.items() if k.startswith("vision_model.")}
        return {image_encoder_key(k): t for k, t in vision.items() if not k.endswith("position_ids")}
    if "cls_embedding" in renamed:
        return {f"visual.{key}": tensor for key, tensor in renamed.items()}
    if "decoder.conv_in.weight" in renamed:
        num_res_blocks = len({k.split(".")[4] for k in renamed if k.startswith("decoder.up_blocks.0.resnets.")}) - 1
        return {vae_key(num_res_blocks)(key): tensor for key, tensor in renamed.items()}
    if "enc.output_norm.weight" in renamed:
        for pattern, replacement in _GGUF_TEXT:
            renamed = {re.sub(pattern, replacement, key): tensor for key, tensor in renamed.items()}
    return renamed


def fold_scales(tensors: Mapping[str, TensorSource], what: str) -> Tensors:
    """Join fp8 weights with their scales, one for the tensor or one per row; without a scale it is 1.

    Scales of activations are dropped: activations are quantized by their own maximum, if at all.
    """
    scales = {key.removesuffix(suffix): key for suffix in _SCALES for key in tensors if key.endswith(suffix)}
    if unknown := sorted(scales[layer] for layer in scales if f"{layer}.weight" not in tensors):
        raise CheckpointError(f"{what}: {len(unknown)} scales without a weight: {truncate_names(unknown)}")
    dropped = {layer + suffix for layer in scales for suffix in _ACTIVATION_SCALES} | set(scales.values())
    folded: Tensors = {}
    for key, tensor in tensors.items():
        layer = key.removesuffix(".weight")
        if key in dropped:
            continue
        if key.endswith(".weight") and tensor.dtype in _FP8 and not isinstance(tensor, EncodedTensor):
            scale = _read_scale(tensors[scales[layer]], what) if layer in scales else torch.ones(1)
            if scale.numel() not in (1, tensor.shape[0]):
                raise CheckpointError(f"{what}: the scale of {key} has {scale.numel()} values")
            scale = scale.view(-1, 1).expand(tensor.shape[0], 1).contiguous()
            folded[key] = EncodedTensor(stored=tensor, shape=tuple(tensor.shape), scale=scale)
        else:
            folded[key] = tensor
    return folded


def _read_scale(source: TensorSource, what: str) -> Tensor:
    if isinstance(source, Tensor):
        return source.float().view(-1)
    assert isinstance(source, TensorSlice)
    tensor = torch.empty(source.shape, dtype=source.dtype)
    read_into(tensor, source)
    return tensor.float().view(-1)


class OtherFiles:
    """Weight files in `folder`, its base and audio bundle and ComfyUI's subfolders, except those of published names."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        files = config.files
        folders = [folder, *(folder / name for name in (files.base, files.audio, *_SUBFOLDERS))]
        published = {files.audio_weights, files.text_encoder, files.image_encoder, files.vae}
        self.config, self.folder = config, folder
        self.paths = [
            path
            for each in dict.fromkeys(folders)
            for path in sorted(each.glob("*"))
            if path.suffix in _SUFFIXES and path.name not in published and not path.name.startswith(_SHARD_PREFIX)
        ]

    @cached_property
    def kinds(self) -> dict[Path, str]:
        """What each file is, from its tensors' names and shapes."""
        return {path: identify((path,), self.config) for path in self.paths}

    @property
    def usable(self) -> bool:
        """Whether one of the files is a component of the model."""
        return any(kind in COMPONENT_KINDS for kind in self.kinds.values())

    @property
    def description(self) -> str:
        """A clause for error messages: what lies there and what it looks like."""
        if not self.kinds:
            return ""
        names = [f"{path.relative_to(self.folder)} ({_WORDS.get(kind, kind)})" for path, kind in self.kinds.items()]
        return f"; {self.folder} has {truncate_names(names)}"

    def find(self, kind: str) -> Path | None:
        """The file of a kind. Raises `CheckpointError` if there are several."""
        found = [path for path, each in self.kinds.items() if each == kind]
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(self.folder)) for path in found)
            raise CheckpointError(f"several files hold the {_WORDS[kind]}: {names}; keep one of them in {self.folder}")
        return found[0] if found else None


def identify(paths: Iterable[Path], config: ModelConfig) -> str:
    """A component of `config` (`COMPONENT_KINDS`) that these files hold together, else a description."""
    found: Tensors = {}
    for path in paths:
        try:
            found |= open_tensors(path)
        except CheckpointError as error:
            return f"unreadable: {str(error).removeprefix(str(path)).strip()}"
    if any(_LORA.search(key) for key in found):
        return "a LoRA"
    shapes = {key: tuple(tensor.shape) for key, tensor in original_keys(found).items()}
    if "patch_embedding.weight" in shapes:
        return _identify_transformer(shapes, config)
    if "audio_proj.proj1.weight" in shapes:
        width = shapes.get("audio_proj.norm.weight", (config.transformer.output_dim,))[0]
        return "audio" if width == config.transformer.output_dim else f"audio layers of another model ({width} wide)"
    text, image, vae = config.text_encoder, config.image_encoder, config.vae
    if "token_embedding.weight" in shapes and "blocks.0.attn.q.weight" in shapes:
        expected = (text.vocab_size, text.dim)
        return "text_encoder" if shapes["token_embedding.weight"] == expected else "another text encoder"
    if "visual.patch_embedding.weight" in shapes:
        expected_patch = (image.dim, 3, image.patch_size, image.patch_size)
        is_same = shapes["visual.patch_embedding.weight"] == expected_patch
        return "image_encoder" if is_same else "another CLIP vision tower"
    if "encoder.conv1.weight" in shapes and "decoder.conv1.weight" in shapes:
        is_same = shapes["encoder.conv1.weight"][:2] == (vae.dim, 3) and shapes.get("conv2.weight", ())[:1] == (
            vae.z_dim,
        )
        return "vae" if is_same else "another VAE"
    if "condition_embedder.time_embedder.linear_1.weight" in shapes:
        return "a transformer in diffusers' format"
    return "another model"


def _identify_transformer(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> str:
    """Whether it is the image-to-video network of `config`, else which of Wan's networks it resembles."""
    dim, channels = (*shapes["patch_embedding.weight"], 0, 0)[:2]
    kinds = Counter(key.split(".")[0] for key in shapes)
    num_layers = 1 + max((int(key.split(".")[1]) for key in shapes if re.match(r"blocks\.\d+\.", key)), default=-1)
    expected = config.transformer
    kind = "T2V" if channels == 16 else "I2V" if "img_emb" in kinds else f"{channels}-channel"
    if "vace_blocks" in kinds or "vace_patch_embedding" in kinds:
        kind = "VACE"
    elif (dim, channels, num_layers) == (expected.dim, expected.in_dim, expected.num_layers) and "img_emb" in kinds:
        return "transformer"
    size = _SIZES.get(dim, f"{dim} wide")
    return f"a {kind} transformer, {size}, {num_layers} layers, {channels} input channels"
