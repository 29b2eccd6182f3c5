"""Networks with random weights, created directly on the device.

Shapes, dtypes and quantized layers are those of a loaded checkpoint.
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
from wan.checkpoint import Precision
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
from wan.checkpoint.layout import CheckpointLayout, ComponentFiles
from wan.checkpoint.loading import SCALE_SUFFIX, TensorSpec
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.quantized import MAX_VALUE
from wan.modules.text import TextEncoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE

_NO_COMPONENT = ComponentFiles(files=())
_EMPTY_LAYOUT = CheckpointLayout(
    transformer=_NO_COMPONENT,
    text_encoder=_NO_COMPONENT,
    image_encoder=_NO_COMPONENT,
    vae=_NO_COMPONENT,
    tokenizer=Path(),
    config_json=Path(),
    speech_encoder=Path(),
)
BIAS_STD = 0.02


def random_models(config: ModelConfig, device: torch.device, precision: Precision = "bf16") -> Models:
    """Every component of the pipeline."""
    text = random_component(text_encoder_component(config, _EMPTY_LAYOUT.text_encoder, precision), device)
    image = random_component(image_encoder_component(config, _EMPTY_LAYOUT.image_encoder), device)
    return Models(
        transformer=random_transformer(config, device, precision),
        vae=random_vae(config, device),
        text_encoder=TextEncoder(text, build_tokenizer(config), config.transformer.text_len),
        image_encoder=ImageEncoder(restore_position_ids(image)),
    )


def random_transformer(
    config: ModelConfig, device: torch.device, precision: Precision = "bf16"
) -> MultiTalkTransformer:
    """A transformer with random weights."""
    transformer: MultiTalkTransformer = random_component(
        transformer_component(config, _EMPTY_LAYOUT, precision), device
    )
    return transformer


def random_vae(config: ModelConfig, device: torch.device) -> VideoVAE:
    """A VAE with random weights."""
    return VideoVAE(random_component(vae_component(config, _EMPTY_LAYOUT.vae), device))


def random_speech_encoder(config: ModelConfig, device: torch.device) -> Wav2Vec2Model:
    """A speech encoder with random weights, initialized on the CPU."""
    speech: Wav2Vec2Model = Wav2Vec2Model(speech_config(config)).eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    speech.to(device)  # type: ignore[arg-type]
    return speech


@torch.inference_mode(False)
def random_component(component: Component, device: torch.device) -> Any:
    """Build a component as loading does, from a checkpoint whose tensors have the shapes of its own parameters."""
    with torch.device("meta"):
        tensors = state_dict_by_key(component.build, component.to_file_key)
    plan = plan_loading(replace(component, tensors=tensors, ignored_prefixes=()))
    specs = {key + suffix: spec for key, reader in plan.readers.items() for suffix, spec in reader.outputs.items()}
    outputs = {key: random_tensor(key, spec, device) for key, spec in specs.items()}
    return assign_weights(plan.module, {name: outputs[output] for name, output in plan.outputs.items()})


def state_dict_by_key(build: Callable[[], torch.nn.Module], to_file_key: KeyMap) -> dict[str, Tensor]:
    """State dict of a new module by the keys of the published checkpoint."""
    return {to_file_key(name): parameter for name, parameter in build().state_dict().items()}


def random_tensor(name: str, spec: TensorSpec, device: torch.device) -> Tensor:
    """Random values that keep activations near 1: unit norm weights, linear weights of variance 1 / fan-in."""
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
        return tensor.normal_(std=BIAS_STD)
    if fan_in == 1:
        return tensor.fill_(1)
    return tensor.normal_(std=fan_in**-0.5)
