"""From a latent to the frames of a chunk, slice by slice of time.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wan.chunks import Chunk
from wan.color import colors_of, match_color
from wan.modules.vae import VideoVAE
from wan.types import TEMPORAL_STRIDE


class FrameSink:
    """Hands on the fresh frames of a chunk, slice by slice, while the others are still being decoded.

    Each goes out once, also when decoding begins anew: the same frames are made then.
    """

    def __init__(self, chunk: Chunk, hand_on: Callable[[Tensor], None] | None) -> None:
        """`hand_on` is given float32 3 x F x H x W in order, F from 1 to 4; None for nobody."""
        self.hand_on = hand_on
        self.next = chunk.overlap
        self.end = chunk.overlap + chunk.fresh

    def pass_on(self, first: int, slice_CFHW: Tensor) -> None:
        """A slice that begins with frame `first` of the chunk."""
        fresh = slice_CFHW[:, max(self.next - first, 0) : max(self.end - first, 0)]
        if self.hand_on is not None and fresh.shape[1]:
            self.hand_on(fresh)
            self.next += fresh.shape[1]


def decode_video(
    vae: VideoVAE,
    latent_CTHW: Tensor,
    reference_CHW: Tensor,
    color_strength: float,
    rest: torch.device,
    outlet: FrameSink | None = None,
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
        if outlet is not None:
            outlet.pass_on(done, slice_CFHW)
        video[:, done : done + slice_CFHW.shape[1]] = slice_CFHW.to(rest)
        done += slice_CFHW.shape[1]
    return video
