"""Known frames at the start of a chunk as mask and latent channels, the transformer's condition.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.modules.vae import VideoVAE
from wan.types import TEMPORAL_STRIDE, VideoSize, round_up_frames

MASK_CHANNELS = TEMPORAL_STRIDE
"""One channel for each video frame of a latent frame."""


def condition_latent(
    vae: VideoVAE, known_CFHW: Tensor, size: VideoSize, offload_device: torch.device | None = None
) -> Tensor:
    """20 x T x H/8 x W/8: 4 mask channels, 1 on the known frames, and the latent of those followed by zero frames.

    `known_CFHW` are the first frames of the chunk in [-1, 1]: the image, or the last frames of the previous chunk.
    `offload_device` is where the VAE's feature cache is kept between slices.
    """
    num_known = known_CFHW.shape[1]
    padding = round_up_frames(num_known) - num_known
    latent = vae.encode(F.pad(known_CFHW, (0, 0, 0, 0, 0, padding)), offload_device, num_frames=size.frames)
    return torch.cat((known_mask(num_known, size).to(latent.device), latent))


def known_mask(num_known: int, size: VideoSize) -> Tensor:
    """4 x T x H/8 x W/8: each latent frame's four video frames as channels, the first frame counted four times."""
    frames, rows, columns = size.latent
    flags = (torch.arange(size.frames) < num_known).float()
    flags = torch.cat((flags[:1].expand(TEMPORAL_STRIDE - 1), flags))
    mask_4T = flags.view(frames, TEMPORAL_STRIDE).T
    return mask_4T[:, :, None, None].expand(-1, -1, rows, columns).contiguous()
