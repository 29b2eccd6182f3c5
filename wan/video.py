"""From a latent to the frames of a chunk, slice by slice of time.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import torch
from torch import Tensor

from wan.color import colors_of, match_color
from wan.modules.vae import VideoVAE
from wan.types import TEMPORAL_STRIDE


def decode_video(
    vae: VideoVAE, latent_CTHW: Tensor, reference_CHW: Tensor, color_strength: float, rest: torch.device
) -> Tensor:
    """Float32 3 x F x H x W on `rest`, where features and finished slices wait.

    Every slice is corrected by itself towards the colours of the reference, and leaves before the next one is made.
    """
    frames = TEMPORAL_STRIDE * (latent_CTHW.shape[1] - 1) + 1
    video = torch.empty(3, frames, *reference_CHW.shape[1:], device=rest)
    target = colors_of(reference_CHW[:, None]) if color_strength > 0 else None
    done = 0
    for slice_CFHW in vae.decode(latent_CTHW, rest):
        if target is not None:
            slice_CFHW = match_color(slice_CFHW, target, color_strength)
        video[:, done : done + slice_CFHW.shape[1]] = slice_CFHW.to(rest)
        done += slice_CFHW.shape[1]
    return video
