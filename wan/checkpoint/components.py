"""The four components of a model: their files, modules, dtypes and key maps, and the fixes after loading."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wan.checkpoint.component import Component, load_component
from wan.checkpoint.keys import (
    IMAGE_IGNORED_PREFIXES,
    VAE_DECODER_PREFIX,
    image_encoder_key,
    split_qkv,
    text_encoder_key,
    vae_key,
)
from wan.checkpoint.layout import TOKENIZER_BUNDLE, CheckpointLayout, ComponentFiles, Precision, find_layout
from wan.checkpoint.loading import Regions
from wan.checkpoint.repackaged import OtherFiles, open_repackaged
from wan.checkpoint.tensor_files import CheckpointError, TensorSource
from wan.configs.schema import ModelConfig, TransformerConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.transformer import FLOAT32_NAMES, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

logger = logging.getLogger(__name__)

QUANTIZED_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The loaded networks of a model, without the speech encoder."""

    transformer: MultiTalkTransformer
    vae: VideoVAE
    text_encoder: TextEncoder
    image_encoder: ImageEncoder


def load_models(
    config: ModelConfig,
    folder: Path,
    device: torch.device,
    precision: Precision = "bf16",
    num_resident_blocks: int | None = None,
    keep_encoders: bool = True,
) -> Models:
    """Load every network of `config` from a folder in any layout that `find_layout` knows.

    `precision`: bf16 means the dtypes of the configuration; fp8 and int8 quantize the linear layers of the
    transformer's and the text encoder's blocks, from a quantized file if the folder has one, else on loading.
    Transformer blocks from `num_resident_blocks` on are loaded to the host, and without `keep_encoders` the others too.
    Raises `CheckpointError` for absent files, missing or unknown keys, and mismatched shapes.
    """
    start = time.perf_counter()
    layout = find_layout(config, folder, precision)
    components = (layout.transformer, layout.text_encoder, layout.image_encoder, layout.vae)
    logger.info("weights: %s", ", ".join(str(path) for files in components for path in files.files))
    try:
        check_config(config.transformer, layout.config_json)
        others = device if keep_encoders else torch.device("cpu")
        image_encoder = load_component(image_encoder_component(config, layout.image_encoder), others)
        models = Models(
            transformer=load_component(transformer_component(config, layout, precision, num_resident_blocks), device),
            vae=VideoVAE(load_component(vae_component(config, layout.vae), others)),
            text_encoder=load_text_encoder(config, layout, others, precision),
            image_encoder=ImageEncoder(restore_position_ids(image_encoder)),
        )
    except CheckpointError as error:
        description = "" if layout.converted else OtherFiles(config, folder).description
        raise CheckpointError(f"{error}{description}") from error
    logger.info("%s (%s) on %s after %.1f s", config.name, precision, device, time.perf_counter() - start)
    return models


def load_transformer(
    config: ModelConfig,
    folder: Path,
    device: torch.device,
    precision: Precision = "bf16",
    num_resident_blocks: int | None = None,
) -> MultiTalkTransformer:
    """Load the transformer alone, as `load_models` does."""
    layout = find_layout(config, folder, precision)
    check_config(config.transformer, layout.config_json)
    return load_component(transformer_component(config, layout, precision, num_resident_blocks), device)


def load_text_encoder(
    config: ModelConfig, layout: CheckpointLayout, device: torch.device, precision: Precision = "bf16"
) -> TextEncoder:
    """Load the UMT5 encoder and its tokenizer."""
    from transformers import AutoTokenizer

    if not layout.tokenizer.is_dir():
        raise CheckpointError(
            f"no tokenizer folder {layout.tokenizer}; the weights named {TOKENIZER_BUNDLE} are this folder, and one "
            "inside a text encoder's file is not read"
        )
    module = load_component(text_encoder_component(config, layout.text_encoder, precision), device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(layout.tokenizer, local_files_only=True)
    except Exception as error:  # what transformers raises for a damaged file depends on the file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"the tokenizer in {layout.tokenizer} cannot be read: {reason}") from error
    return TextEncoder(module, tokenizer, config.transformer.text_len)


def transformer_component(
    config: ModelConfig,
    layout: CheckpointLayout,
    precision: Precision = "bf16",
    num_resident_blocks: int | None = None,
) -> Component:
    """The video transformer. Layers quantized by this package, on loading or in `convert`, may multiply in fp8.

    Blocks from `num_resident_blocks` on are loaded to the host.
    """
    files, num_blocks = layout.transformer, config.transformer.num_layers
    on_host = range(num_blocks if num_resident_blocks is None else num_resident_blocks, num_blocks)
    return Component(
        build=lambda: MultiTalkTransformer(config.transformer),
        to_file_key=str,
        tensors=open_files(files.files),
        dtype=getattr(torch, config.dtype),
        keep_in_fp32=is_fp32_param,
        quantization_map=files.quantization_map,
        quantize_to=QUANTIZED_DTYPES.get(precision),
        fp8_matmul=files.quantization_map is None or layout.converted is not None,
        regions=Regions(region_of=block_of, on_host=frozenset(f"blocks.{index}" for index in on_host)),
    )


def text_encoder_component(config: ModelConfig, files: ComponentFiles, precision: Precision = "bf16") -> Component:
    """The UMT5 encoder. It runs once per prompt, so fp8 products are not worth their rounding."""
    return Component(
        build=lambda: build_text_encoder(config.text_encoder),
        to_file_key=text_encoder_key,
        tensors=open_files(files.files),
        dtype=getattr(torch, config.dtype),
        quantization_map=files.quantization_map,
        quantize_to=QUANTIZED_DTYPES.get(precision),
    )


def image_encoder_component(config: ModelConfig, files: ComponentFiles) -> Component:
    """CLIP's vision tower without its last block, from the file of both towers."""
    return Component(
        build=lambda: build_image_encoder(config.image_encoder),
        to_file_key=image_encoder_key,
        tensors=split_qkv(open_files(files.files)),
        dtype=getattr(torch, config.image_encoder_dtype),
        ignored_prefixes=(*IMAGE_IGNORED_PREFIXES, f"visual.transformer.{config.image_encoder.num_layers - 1}."),
    )


def vae_component(config: ModelConfig, files: ComponentFiles) -> Component:
    """The VAE. Only the decoder may have less than float32: the transformer is conditioned on the encoder's latents."""
    return Component(
        build=lambda: build_vae(config.vae),
        to_file_key=vae_key(config.vae.num_res_blocks),
        tensors=open_files(files.files),
        dtype=getattr(torch, config.vae_dtype),
        keep_in_fp32=lambda key: not key.startswith(VAE_DECODER_PREFIX),
    )


def open_files(files: Iterable[Path]) -> dict[str, TensorSource]:
    """The tensors of several files by their original keys; later files override earlier ones."""
    return {key: tensor for path in files for key, tensor in open_repackaged(path).items()}


def is_fp32_param(name: str) -> bool:
    """Whether a transformer parameter stays in float32."""
    return name.startswith(FLOAT32_NAMES) or name.endswith(FLOAT32_NAMES)


def block_of(name: str) -> str:
    """The block of a transformer's parameter, empty for one outside the blocks: blocks are streamed one by one."""
    return ".".join(name.split(".")[:2]) if name.startswith("blocks.") else ""


def check_config(config: TransformerConfig, path: Path | None) -> None:
    """Compare the checkpoint's `config.json` with `config`: shapes do not determine the number of heads.

    `path` None: a repackaged file, which has no `config.json`; the configuration's heads are taken.
    """
    if path is None:
        return
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        published = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    mismatches = [
        f"{field.name} is {published[field.name]}, not {getattr(config, field.name)}"
        for field in fields(config)
        if field.name in published and published[field.name] != getattr(config, field.name)
    ]
    if mismatches:
        raise CheckpointError(f"{path} describes another network: {'; '.join(mismatches)}")


def restore_position_ids(module: CLIPVisionModel) -> CLIPVisionModel:
    """Compute the buffer `position_ids`, which no file contains and which is still on the meta device."""
    embeddings = module.embeddings
    device = embeddings.position_embedding.weight.device
    embeddings.register_buffer("position_ids", torch.arange(embeddings.num_positions, device=device)[None], False)
    return module
