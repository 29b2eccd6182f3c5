"""Decode a chunk's latent to frames, one latent frame at a time.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wan.color import lab_stats, match_color
from wan.modules.vae import VideoVAE


def decode_video(
    vae: VideoVAE, latent_CTHW: Tensor, reference_CHW: Tensor, color_strength: float, offload_device: torch.device
) -> Iterator[Tensor]:
    """Yield T slices of the video on the VAE's device: float32 3 x (1 or 4) x H x W in [-1, 1].

    Each slice is color-corrected towards the reference by `color_strength` in 0..1. The VAE's feature cache is kept on
    `offload_device` between slices.
    """
    target = lab_stats(reference_CHW[:, None]) if color_strength > 0 else None
    for frames_CFHW in vae.decode(latent_CTHW, offload_device):
        yield frames_CFHW if target is None else match_color(frames_CFHW, target, color_strength)
