"""The causal video VAE of Wan2.1, run by diffusers' `AutoencoderKLWan`.

Shapes: C channels, F video frames (4n + 1), T latent frames, H x W.
"""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan.configs.schema import VideoVAEConfig
from wan.types import latent_frames


def build_vae(config: VideoVAEConfig) -> AutoencoderKLWan:
    """The library's module at our sizes, without weights when called under the meta device."""
    statistics = {"latents_mean": config.latents_mean, "latents_std": config.latents_std}
    return AutoencoderKLWan(
        base_dim=config.dim,
        decoder_base_dim=config.decoder_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        **{name: list(values) for name, values in statistics.items() if values is not None},
    )


class VideoVAE:
    """Pixels in [-1, 1] to normalised latents and back; deterministic: encoding takes the posterior's mode.

    The library keeps features of past frames on its module; a call that is stopped leaves none behind.
    """

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model

    def encode(self, video_CFHW: Tensor) -> Tensor:
        """3 x F x H x W in [-1, 1] to float32 z_dim x T x H/8 x W/8. F must be 4n + 1: the library would drop
        the frames of an incomplete latent frame without a word."""
        latent_frames(video_CFHW.shape[1])
        try:
            mode = self.model.encode(video_CFHW[None].to(self.model.dtype)).latent_dist.mode()[0]
        finally:
            self.model.clear_cache()
        mean, std = self._statistics(mode.device)
        return (mode.float() - mean) / std

    def decode(self, latent_CTHW: Tensor) -> Tensor:
        """Normalised z_dim x T x H/8 x W/8 to float32 3 x F x H x W, clamped to [-1, 1]."""
        mean, std = self._statistics(latent_CTHW.device)
        z = latent_CTHW * std + mean
        try:
            return self.model.decode(z[None].to(self.model.dtype)).sample[0].float()
        finally:
            self.model.clear_cache()

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latent channels, broadcastable to C x T x H x W."""
        config = self.model.config
        mean, std = (
            torch.tensor(values, device=device, dtype=torch.float32)[:, None, None, None]
            for values in (config["latents_mean"], config["latents_std"])
        )
        return mean, std
