"""The causal video VAE of Wan2.1: the modules of diffusers' `AutoencoderKLWan`, gone through slice by slice of time.

The first slice is one video frame and one latent frame, every other four video frames and one latent frame. Between
slices each causal convolution needs the last frames of what it was given before: its features. They are as large as
the work itself, and may rest on the host; nothing is computed differently then.

Shapes: C channels, F video frames (4n + 1), T latent frames, H x W.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from wan.configs.schema import VideoVAEConfig
from wan.modules.vae_layers import (
    FeatureCache,
    channels_last,
    decoder_layers,
    encoder_stages,
    head,
    receptive_field,
    run_layers,
    to_channels_last,
)
from wan.types import TEMPORAL_STRIDE, latent_frames

TF32 = True
"""Whether a GPU may round the factors of the encoder's convolutions to ten bits. The sums are float32, and so is all
that lies between the convolutions."""


def build_vae(config: VideoVAEConfig) -> AutoencoderKLWan:
    """The library's module at our sizes, without weights when called under the meta device."""
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
    """What a stage was given and gave last, and how often before it had been given the same."""

    x: Tensor
    y: Tensor
    repeats: int


class StaticInputCache:
    """Leaves out the work of stages on a picture that stands still.

    A stage that is given one and the same tensor again and again sees, once all frames within its reach are of that
    tensor, what it saw a slice before: its result is the one it gave then, and is given again.
    """

    def __init__(self) -> None:
        self._last: dict[nn.Module, StageCall] = {}

    def pass_on(self, stage: Sequence[nn.Module], x: Tensor, features: FeatureCache) -> Tensor:
        """The stage's result for x, which is not the first slice."""
        last = self._last.get(stage[0])
        repeats = last.repeats + 1 if last is not None and last.x is x else 0
        reached = -(-sum(map(receptive_field, stage)) // x.shape[2])
        y = last.y if last is not None and repeats > reached else run_layers(stage, x, features, first=False)
        self._last[stage[0]] = StageCall(x, y, repeats)
        return y


class VideoVAE:
    """Pixels in [-1, 1] to normalised latents and back; deterministic: encoding takes the posterior's mode.

    `rest` is the device where features wait between slices; None for the network's own. The encoder is float32, the
    decoder works in the dtype of its weights.
    """

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model
        to_channels_last(model)

    def encode(self, video_CFHW: Tensor, rest: torch.device | None = None, frames: int | None = None) -> Tensor:
        """3 x F x H x W in [-1, 1], on any device, to float32 z_dim x T x H/8 x W/8. F must be 4n + 1: an
        incomplete latent frame has no meaning. `frames`: as if frames of zeros followed, so many in all."""
        encoder = self.model.encoder
        device = self.model.device
        features, still = FeatureCache(device, rest or device), StaticInputCache()
        stages = encoder_stages(encoder)
        zeros = channels_last(torch.zeros(1, 3, TEMPORAL_STRIDE, *video_CFHW.shape[2:], device=device))
        known, slices = latent_frames(video_CFHW.shape[1]), []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=TF32):
            for index in range(latent_frames(frames or video_CFHW.shape[1])):
                if index < known:
                    start = max(0, TEMPORAL_STRIDE * (index - 1) + 1)
                    pixels = video_CFHW[None, :, start : TEMPORAL_STRIDE * index + 1]
                    x = run_layers(chain(*stages), channels_last(pixels.to(device)), features, index == 0)
                else:
                    x = zeros
                    for stage in stages:
                        x = still.pass_on(stage, x, features)
                slices.append(head(encoder, x, features))
            moments = self.model.quant_conv(torch.cat(slices, dim=2))[0]
        mean, std = self._statistics(device)
        return (moments[: len(moments) // 2].float() - mean) / std

    def decode(self, latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        """Normalised z_dim x T x H/8 x W/8 to T slices of the video, float32 3 x (1 or 4) x H x W in [-1, 1]."""
        decoder = self.model.decoder
        device, dtype = self.model.device, decoder.conv_in.weight.dtype
        mean, std = self._statistics(device)
        features = FeatureCache(device, rest or device)
        layers = decoder_layers(decoder)
        z = self.model.post_quant_conv((latent_CTHW * std + mean)[None]).to(dtype)
        for index in range(latent_CTHW.shape[1]):
            x = run_layers(layers, channels_last(z[:, :, index : index + 1]), features, index == 0)
            yield head(decoder, x, features)[0].clamp_(-1, 1).float()

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latent channels, broadcastable to C x T x H x W."""
        config = self.model.config
        mean, std = (
            torch.tensor(values, device=device, dtype=torch.float32)[:, None, None, None]
            for values in (config["latents_mean"], config["latents_std"])
        )
        return mean, std
