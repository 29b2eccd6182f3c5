"""The frames a chunk continues from, as mask and latent channels.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.modules.vae import VideoVAE
from wan.types import TEMPORAL_STRIDE, VideoSize, round_up_frames

MASK_CHANNELS = TEMPORAL_STRIDE
"""One channel for each video frame of a latent frame."""


def condition_latent(vae: VideoVAE, known_CFHW: Tensor, size: VideoSize, rest: torch.device | None = None) -> Tensor:
    """20 x T x H/8 x W/8: 4 mask channels, 1 on the known frames, and the latent of those followed by zero frames.

    `known_CFHW` are the first frames of the chunk in [-1, 1]: the picture, or the frames the chunk before ended in.
    `rest` is where the VAE's features wait between slices.
    """
    known = known_CFHW.shape[1]
    missing = round_up_frames(known) - known
    latent = vae.encode(F.pad(known_CFHW, (0, 0, 0, 0, 0, missing)), rest, num_frames=size.frames)
    return torch.cat((known_mask(known, size).to(latent.device), latent))


def known_mask(known: int, size: VideoSize) -> Tensor:
    """4 x T x H/8 x W/8: each latent frame's four video frames as channels, the first frame counted four times."""
    frames, rows, columns = size.latent
    flags = (torch.arange(size.frames) < known).float()
    flags = torch.cat((flags[:1].expand(TEMPORAL_STRIDE - 1), flags))
    mask_4T = flags.view(frames, TEMPORAL_STRIDE).T
    return mask_4T[:, :, None, None].expand(-1, -1, rows, columns).contiguous()
