"""The causal video VAE of Wan2.1: the modules of diffusers' `AutoencoderKLWan`, gone through slice by slice of time.

The first slice is one video frame and one latent frame, every other four video frames and one latent frame. Between
slices each causal convolution needs the last frames of what it was given before: its features. They are as large as
the work itself, and may rest on the host; nothing is computed differently then.

Shapes: C channels, F video frames (4n + 1), T latent frames, H x W.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan.configs.schema import VideoVAEConfig
from wan.modules.convolution import OneDNN
from wan.types import TEMPORAL_STRIDE, latent_frames


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


class Features:
    """What the library's convolutions keep of past frames, by number; None before the first slice.

    Tensors rest on one device and are handed out on another; the library's marks, which are no tensors, stay marks.
    """

    def __init__(self, device: torch.device, rest: torch.device) -> None:
        self.device = device
        self.rest = rest
        self.kept: dict[int, Any] = {}

    def __getitem__(self, number: int) -> Any:
        kept = self.kept.get(number)
        return kept.to(self.device) if isinstance(kept, Tensor) else kept

    def __setitem__(self, number: int, kept: Any) -> None:
        self.kept[number] = kept.to(self.rest) if isinstance(kept, Tensor) else kept


class VideoVAE:
    """Pixels in [-1, 1] to normalised latents and back; deterministic: encoding takes the posterior's mode.

    `rest` is the device where features wait between slices; None for the network's own.
    """

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model

    def encode(self, video_CFHW: Tensor, rest: torch.device | None = None) -> Tensor:
        """3 x F x H x W in [-1, 1], on any device, to float32 z_dim x T x H/8 x W/8. F must be 4n + 1: an
        incomplete latent frame has no meaning."""
        count = latent_frames(video_CFHW.shape[1])
        device, dtype = self.model.device, self.model.dtype
        features = Features(device, rest or device)
        slices = []
        for index in range(count):
            start = max(0, TEMPORAL_STRIDE * (index - 1) + 1)
            frames = video_CFHW[None, :, start : TEMPORAL_STRIDE * index + 1].to(device, dtype)
            with OneDNN():
                slices.append(self.model.encoder(frames, feat_cache=features, feat_idx=[0]))
        with OneDNN():
            moments = self.model.quant_conv(torch.cat(slices, dim=2))[0]
        mean, std = self._statistics(device)
        return (moments[: len(moments) // 2].float() - mean) / std

    def decode(self, latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        """Normalised z_dim x T x H/8 x W/8 to T slices of the video, float32 3 x (1 or 4) x H x W in [-1, 1]."""
        device = self.model.device
        mean, std = self._statistics(device)
        features = Features(device, rest or device)
        with OneDNN():
            z = self.model.post_quant_conv((latent_CTHW * std + mean)[None].to(self.model.dtype))
        for index in range(latent_CTHW.shape[1]):
            slice_z = z[:, :, index : index + 1]
            with OneDNN():
                frames = self.model.decoder(slice_z, feat_cache=features, feat_idx=[0], first_chunk=index == 0)
            yield frames[0].clamp(-1, 1).float()

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latent channels, broadcastable to C x T x H x W."""
        config = self.model.config
        mean, std = (
            torch.tensor(values, device=device, dtype=torch.float32)[:, None, None, None]
            for values in (config["latents_mean"], config["latents_std"])
        )
        return mean, std
