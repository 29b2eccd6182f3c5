"""From a folder to the networks: the four parts of a model, where they lie and what they become."""

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPVisionModel

from wan.checkpoint import keys as naming
from wan.checkpoint.component import Component, load_component
from wan.checkpoint.layout import CheckpointLayout, ComponentFiles, Precision, find_layout
from wan.checkpoint.tensor_files import CheckpointError, TensorSource, open_tensors
from wan.configs.schema import ModelConfig, TransformerConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.transformer import FLOAT32_NAMES, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae

__all__ = ["CheckpointError", "Models", "Precision", "load_models"]

logger = logging.getLogger(__name__)

EIGHT_BITS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The networks that `wan` runs, on one device."""

    transformer: MultiTalkTransformer
    vae: VideoVAE
    text_encoder: TextEncoder
    image_encoder: ImageEncoder


def load_models(config: ModelConfig, folder: Path, device: torch.device, precision: Precision = "bf16") -> Models:
    """Every network of `config` from any layout of files that `find_layout` knows.

    `precision` bf16 means the configuration's own dtypes; fp8 and int8 keep the linear layers of the transformer's
    and the text encoder's blocks in eight bits: from a quantised file if the folder has one, else quantised on
    reading. Raises `CheckpointError` for absent files, missing or unknown names, and other shapes.
    """
    start = time.perf_counter()
    layout = find_layout(config, folder, precision)
    check_config(config.transformer, layout.config_json)
    image_encoder = load_component(image_encoder_part(config, layout.image_encoder), device)
    models = Models(
        transformer=load_component(transformer_part(config, layout, precision), device),
        vae=VideoVAE(load_component(vae_part(config, layout.vae), device)),
        text_encoder=load_text_encoder(config, layout, device, precision),
        image_encoder=ImageEncoder(restore_position_ids(image_encoder)),
    )
    logger.info("%s (%s) on %s after %.1f s", config.name, precision, device, time.perf_counter() - start)
    return models


def load_text_encoder(
    config: ModelConfig, layout: CheckpointLayout, device: torch.device, precision: Precision = "bf16"
) -> TextEncoder:
    """The UMT5 encoder and its tokenizer."""
    if not layout.tokenizer.is_dir():
        raise CheckpointError(f"no tokenizer folder {layout.tokenizer}")
    module = load_component(text_encoder_part(config, layout.text_encoder, precision), device)
    tokenizer = AutoTokenizer.from_pretrained(layout.tokenizer, local_files_only=True)
    return TextEncoder(module, tokenizer, config.transformer.text_len)


def transformer_part(config: ModelConfig, layout: CheckpointLayout, precision: Precision = "bf16") -> Component:
    """The video transformer; layers that we quantised ourselves, now or in `convert`, may multiply in fp8."""
    files = layout.transformer
    return Component(
        build=lambda: MultiTalkTransformer(config.transformer),
        name=_same,
        tensors=open_files(files.files),
        dtype=getattr(torch, config.dtype),
        is_island=is_fp32_param,
        stored=files.layers,
        eight_bits=EIGHT_BITS.get(precision),
        products=files.layers is None or layout.converted is not None,
    )


def text_encoder_part(config: ModelConfig, files: ComponentFiles, precision: Precision = "bf16") -> Component:
    """The UMT5 encoder; it runs once a prompt, so its products need not be fast."""
    return Component(
        build=lambda: build_text_encoder(config.text_encoder),
        name=naming.text_encoder_key,
        tensors=open_files(files.files),
        dtype=getattr(torch, config.dtype),
        stored=files.layers,
        eight_bits=EIGHT_BITS.get(precision),
    )


def image_encoder_part(config: ModelConfig, files: ComponentFiles) -> Component:
    """CLIP's vision tower, less its last block, from the file of both towers."""
    return Component(
        build=lambda: build_image_encoder(config.image_encoder),
        name=naming.image_encoder_key,
        tensors=naming.split_qkv(open_files(files.files)),
        dtype=getattr(torch, config.image_encoder_dtype),
        unused=(*naming.IMAGE_UNUSED, f"visual.transformer.{config.image_encoder.num_layers - 1}."),
    )


def vae_part(config: ModelConfig, files: ComponentFiles) -> Component:
    """The VAE. Only its decoder may be rounded: what the encoder gives, the transformer reads."""
    return Component(
        build=lambda: build_vae(config.vae),
        name=naming.vae_key(config.vae.num_res_blocks),
        tensors=open_files(files.files),
        dtype=getattr(torch, config.vae_dtype),
        is_island=lambda published: not published.startswith(naming.VAE_DECODER),
    )


def open_files(files: Iterable[Path]) -> dict[str, TensorSource]:
    """The tensors of several files; what a later one holds replaces what earlier ones hold."""
    return {name: tensor for path in files for name, tensor in open_tensors(path).items()}


def is_fp32_param(name: str) -> bool:
    """Whether a transformer parameter is part of a float32 island."""
    return name.startswith(FLOAT32_NAMES) or name.endswith(FLOAT32_NAMES)


def check_config(config: TransformerConfig, path: Path) -> None:
    """Compare the checkpoint's own `config.json` with ours: head counts cannot be seen in shapes."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        published = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    wrong = [
        f"{field.name} is {published[field.name]}, not {getattr(config, field.name)}"
        for field in fields(config)
        if field.name in published and published[field.name] != getattr(config, field.name)
    ]
    if wrong:
        raise CheckpointError(f"{path} describes another network: {'; '.join(wrong)}")


def _same(name: str) -> str:
    """Our transformer has the published names."""
    return name


def restore_position_ids(module: CLIPVisionModel) -> CLIPVisionModel:
    """Rebuild what is in no file, and still on the meta device."""
    embeddings = module.embeddings
    device = embeddings.position_embedding.weight.device
    embeddings.register_buffer("position_ids", torch.arange(embeddings.num_positions, device=device)[None], False)
    return module
