"""Networks as loading builds them, without a checkpoint: with other values, or to be measured on the meta device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wan.checkpoint.component import Component, assign_weights, plan_loading
from wan.checkpoint.components import (
    Models,
    image_encoder_component,
    restore_position_ids,
    text_encoder_component,
    transformer_component,
    vae_component,
)
from wan.checkpoint.keys import KeyMap
from wan.checkpoint.layout import CheckpointLayout, ComponentFiles, Precision
from wan.checkpoint.loading import TensorSpec
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.text import TextEncoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE

MakeTensor = Callable[[str, TensorSpec], Tensor]
"""File key, and shape and dtype after loading, to the tensor."""

_NO_FILES = ComponentFiles(files=())
_EMPTY_LAYOUT = CheckpointLayout(
    transformer=_NO_FILES,
    text_encoder=_NO_FILES,
    image_encoder=_NO_FILES,
    vae=_NO_FILES,
    tokenizer=Path(),
    config_json=Path(),
    speech_encoder=Path(),
)


def on_meta(_: str, spec: TensorSpec) -> Tensor:
    """A tensor without data."""
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta")


def empty_models(
    config: ModelConfig,
    precision: Precision = "bf16",
    make: MakeTensor = on_meta,
    tokenizer: Any = None,
    make_transformer: MakeTensor | None = None,
) -> Models:
    """Every component of the pipeline; without a tokenizer prompts cannot be encoded.

    `make_transformer` makes the tensors of the transformer in place of `make`.
    """
    text = empty_component(text_encoder_component(config, _EMPTY_LAYOUT.text_encoder, precision), make)
    image = empty_component(image_encoder_component(config, _EMPTY_LAYOUT.image_encoder), make)
    return Models(
        transformer=empty_transformer(config, precision, make_transformer or make),
        vae=empty_vae(config, make),
        text_encoder=TextEncoder(text, tokenizer, config.transformer.text_len),
        image_encoder=ImageEncoder(restore_position_ids(image)),
    )


def empty_transformer(
    config: ModelConfig, precision: Precision = "bf16", make: MakeTensor = on_meta
) -> MultiTalkTransformer:
    """The transformer alone."""
    transformer: MultiTalkTransformer = empty_component(transformer_component(config, _EMPTY_LAYOUT, precision), make)
    return transformer


def empty_vae(config: ModelConfig, make: MakeTensor = on_meta) -> VideoVAE:
    """The VAE alone."""
    return VideoVAE(empty_component(vae_component(config, _EMPTY_LAYOUT.vae), make))


@torch.inference_mode(False)
def empty_component(component: Component, make: MakeTensor) -> Any:
    """Build a component as loading does, from a checkpoint whose tensors have the shapes of its own parameters."""
    with torch.device("meta"):
        tensors = state_dict_by_key(component.build, component.to_file_key)
    plan = plan_loading(replace(component, tensors=tensors, ignored_prefixes=()))
    specs = {key + suffix: spec for key, reader in plan.readers.items() for suffix, spec in reader.outputs.items()}
    outputs = {key: make(key, spec) for key, spec in specs.items()}
    return assign_weights(plan.module, {name: outputs[output] for name, output in plan.outputs.items()})


def state_dict_by_key(build: Callable[[], nn.Module], to_file_key: KeyMap) -> dict[str, Tensor]:
    """State dict of a new module by the keys of the published checkpoint."""
    return {to_file_key(name): parameter for name, parameter in build().state_dict().items()}
