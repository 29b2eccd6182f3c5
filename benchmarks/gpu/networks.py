"""Networks with random weights, created directly on the device.

Shapes, dtypes and quantized layers are those of a loaded checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wan.checkpoint import Precision
from wan.checkpoint.components import Models
from wan.checkpoint.empty import MakeTensor, empty_models, empty_transformer, empty_vae
from wan.checkpoint.loading import SCALE_SUFFIX, TensorSpec
from wan.configs.schema import ModelConfig
from wan.modules.quantized import MAX_VALUE
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE

if TYPE_CHECKING:
    from src.audio_analysis.wav2vec2 import Wav2Vec2Model

BIAS_STD = 0.02


def random_models(config: ModelConfig, device: torch.device, precision: Precision = "bf16") -> Models:
    """Every component of the pipeline."""
    from training.components import build_tokenizer

    return empty_models(config, precision, random_on(device), build_tokenizer(config))


def random_transformer(
    config: ModelConfig, device: torch.device, precision: Precision = "bf16"
) -> MultiTalkTransformer:
    """A transformer with random weights."""
    return empty_transformer(config, precision, random_on(device))


def random_vae(config: ModelConfig, device: torch.device) -> VideoVAE:
    """A VAE with random weights."""
    return empty_vae(config, random_on(device))


def random_speech_encoder(config: ModelConfig, device: torch.device) -> Wav2Vec2Model:
    """A speech encoder with random weights, initialized on the CPU."""
    from src.audio_analysis.wav2vec2 import Wav2Vec2Model
    from training.components import speech_config

    speech: Wav2Vec2Model = Wav2Vec2Model(speech_config(config)).eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    speech.to(device)  # type: ignore[arg-type]
    return speech


def random_on(device: torch.device) -> MakeTensor:
    """Random values that keep activations near 1: unit norm weights, linear weights of variance 1 / fan-in."""

    def make(name: str, spec: TensorSpec) -> Tensor:
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
        return tensor.fill_(1) if fan_in == 1 else tensor.normal_(std=fan_in**-0.5)

    return make
