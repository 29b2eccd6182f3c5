"""The causal video VAE of Wan2.1: the modules of diffusers' `AutoencoderKLWan`, run on one slice of frames at a time.

The first slice is one video frame and one latent frame, each later slice four video frames and one latent frame. Each
causal convolution keeps the last input frames of a slice for the next one, in a `FeatureCache`. The cache is about as
large as the activations of a slice and may be offloaded to the host, with the same results.

Shapes: C channels, F video frames (4n + 1), T latent frames, H x W.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from wan.configs.schema import VideoVAEConfig
from wan.modules.feature_cache import FeatureCache
from wan.modules.vae_layers import (
    channels_last,
    decoder_layers,
    encoder_stages,
    head,
    receptive_field,
    run_layers,
    to_channels_last,
)
from wan.types import TEMPORAL_STRIDE, latent_frames

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

TF32 = True
"""Whether encoder convolutions may use TF32 on a GPU."""


def build_vae(config: VideoVAEConfig) -> AutoencoderKLWan:
    """diffusers' module for a config; without weights inside `torch.device("meta")`."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    statistics = {"latents_mean": config.latents_mean, "latents_std": config.latents_std}
    return AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        **{name: list(values) for name, values in statistics.items() if values is not None},
    )


class StageCall(NamedTuple):
    """Last input and output of a stage, and how often in a row that input came before."""

    x: Tensor
    y: Tensor
    repeats: int


class StaticInputCache:
    """Skips encoder stages whose input does not change.

    A stage whose input is the same tensor in enough successive slices to fill its receptive field gives the same output
    as for the slice before; that output is returned again.
    """

    def __init__(self) -> None:
        self._last: dict[nn.Module, StageCall] = {}

    def run(self, stage: Sequence[nn.Module], x: Tensor, features: FeatureCache) -> Tensor:
        """Output of a stage for a slice x other than the first."""
        last = self._last.get(stage[0])
        repeats = last.repeats + 1 if last is not None and last.x is x else 0
        num_slices = -(-sum(map(receptive_field, stage)) // x.shape[2])
        y = last.y if last is not None and repeats > num_slices else run_layers(stage, x, features, first=False)
        self._last[stage[0]] = StageCall(x, y, repeats)
        return y


class VideoVAE:
    """Pixels in [-1, 1] to normalized latents and back; deterministic, since encoding takes the posterior's mode.

    `offload_device` keeps the feature cache between slices; None: the device of the model. The encoder is float32, the
    decoder runs in the dtype of its weights.
    """

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model
        to_channels_last(model)

    def encode(
        self, video_CFHW: Tensor, offload_device: torch.device | None = None, num_frames: int | None = None
    ) -> Tensor:
        """3 x F x H x W in [-1, 1], on any device, to float32 z_dim x T x H/8 x W/8. F must be 4n + 1.

        `num_frames`: pad the video with zero frames to this length; most stages skip the padding.
        """
        encoder = self.model.encoder
        device = self.model.device
        static = StaticInputCache()
        stages = encoder_stages(encoder)
        zeros = channels_last(torch.zeros(1, 3, TEMPORAL_STRIDE, *video_CFHW.shape[2:], device=device))
        num_known, latents = latent_frames(video_CFHW.shape[1]), []
        with (
            FeatureCache(device, offload_device or device) as features,
            torch.backends.cudnn.flags(enabled=True, allow_tf32=TF32),
        ):
            for index in range(latent_frames(num_frames or video_CFHW.shape[1])):
                if index < num_known:
                    start = max(0, TEMPORAL_STRIDE * (index - 1) + 1)
                    pixels = video_CFHW[None, :, start : TEMPORAL_STRIDE * index + 1]
                    x = run_layers(chain(*stages), channels_last(pixels.to(device)), features, index == 0)
                else:
                    x = zeros
                    for stage in stages:
                        x = static.run(stage, x, features)
                latents.append(head(encoder, x, features))
            moments = self.model.quant_conv(torch.cat(latents, dim=2))[0]
        mean, std = self._statistics(device)
        return (moments[: len(moments) // 2].float() - mean) / std

    def decode(self, latent_CTHW: Tensor, offload_device: torch.device | None = None) -> Iterator[Tensor]:
        """Normalized z_dim x T x H/8 x W/8 to T slices of the video, float32 3 x (1 or 4) x H x W in [-1, 1]."""
        decoder = self.model.decoder
        device, dtype = self.model.device, decoder.conv_in.weight.dtype
        mean, std = self._statistics(device)
        layers = decoder_layers(decoder)
        z = self.model.post_quant_conv((latent_CTHW * std + mean)[None]).to(dtype)
        with FeatureCache(device, offload_device or device) as features:
            for index in range(latent_CTHW.shape[1]):
                x = run_layers(layers, channels_last(z[:, :, index : index + 1]), features, index == 0)
                yield head(decoder, x, features)[0].clamp_(-1, 1).float()

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent channels, broadcastable to C x T x H x W."""
        config = self.model.config
        mean, std = (
            torch.tensor(values, device=device, dtype=torch.float32)[:, None, None, None]
            for values in (config["latents_mean"], config["latents_std"])
        )
        return mean, std
