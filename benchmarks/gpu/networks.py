"""The networks of a model with random weights, drawn on the device: nothing passes through the host or a file.

Sizes, dtypes and eight-bit layers are those that loading would give.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from training.components import build_tokenizer, speech_config
from wan.checkpoint.component import Component, assign_weights, plan_loading
from wan.checkpoint.components import (
    Models,
    Precision,
    image_encoder_component,
    restore_position_ids,
    text_encoder_component,
    transformer_component,
    vae_component,
)
from wan.checkpoint.keys import KeyMap
from wan.checkpoint.layout import CheckpointLayout, ComponentFiles
from wan.checkpoint.loading import SCALE_SUFFIX, TensorSpec
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.quantized import MAX_VALUE
from wan.modules.text import TextEncoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE

NOTHING = ComponentFiles(files=())
NO_FILES = CheckpointLayout(
    transformer=NOTHING,
    text_encoder=NOTHING,
    image_encoder=NOTHING,
    vae=NOTHING,
    tokenizer=Path(),
    config_json=Path(),
    speech_encoder=Path(),
)
SMALL = 0.02


def draw_models(config: ModelConfig, device: torch.device, precision: Precision = "bf16") -> Models:
    """Every network that `wan` runs."""
    text = drawn(text_encoder_component(config, NO_FILES.text_encoder, precision), device)
    image = drawn(image_encoder_component(config, NO_FILES.image_encoder), device)
    return Models(
        transformer=draw_transformer(config, device, precision),
        vae=draw_vae(config, device),
        text_encoder=TextEncoder(text, build_tokenizer(config), config.transformer.text_len),
        image_encoder=ImageEncoder(restore_position_ids(image)),
    )


def draw_transformer(config: ModelConfig, device: torch.device, precision: Precision = "bf16") -> MultiTalkTransformer:
    """The transformer."""
    transformer: MultiTalkTransformer = drawn(transformer_component(config, NO_FILES, precision), device)
    return transformer


def draw_vae(config: ModelConfig, device: torch.device) -> VideoVAE:
    """The VAE."""
    return VideoVAE(drawn(vae_component(config, NO_FILES.vae), device))


def draw_speech(config: ModelConfig, device: torch.device) -> Wav2Vec2Model:
    """The speech encoder, which is small enough to be made on the host."""
    speech: Wav2Vec2Model = Wav2Vec2Model(speech_config(config)).eval().requires_grad_(False)
    speech.to(device)  # type: ignore[arg-type]
    return speech


@torch.inference_mode(False)
def drawn(component: Component, device: torch.device) -> Any:
    """A network whose published tensors are what its own parameters say they are."""
    with torch.device("meta"):
        tensors = named(component.build, component.to_file_key)
    plan = plan_loading(replace(component, tensors=tensors, ignored_prefixes=()))
    specs = {key + suffix: spec for key, reader in plan.readers.items() for suffix, spec in reader.outputs.items()}
    outputs = {key: draw(key, spec, device) for key, spec in specs.items()}
    return assign_weights(plan.module, {name: outputs[output] for name, output in plan.outputs.items()})


def named(build: Callable[[], torch.nn.Module], to_file_key: KeyMap) -> dict[str, Tensor]:
    """A module's parameters by file key."""
    return {to_file_key(name): parameter for name, parameter in build().state_dict().items()}


def draw(name: str, spec: TensorSpec, device: torch.device) -> Tensor:
    """Values that keep activations near 1: norms leave them as they are, products keep their size."""
    shape, dtype = spec
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if dtype == torch.int8:
        return torch.randint(-127, 128, shape, dtype=dtype, device=device)
    if dtype in MAX_VALUE:
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=MAX_VALUE[dtype] / 4).to(dtype)
    tensor = torch.empty(shape, dtype=dtype, device=device)
    if name.endswith(SCALE_SUFFIX):
        return tensor.fill_(1e-4)
    if name.endswith("bias"):
        return tensor.normal_(std=SMALL)
    if fan_in == 1:
        return tensor.fill_(1)
    return tensor.normal_(std=fan_in**-0.5)
