"""Decode a chunk's latent to frames, one latent frame at a time.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wan.chunks import Chunk
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


class DecodedChunk:
    """Which frames of a chunk have been decoded, so that decoding can resume after an error."""

    def __init__(self, chunk: Chunk, num_motion: int) -> None:
        """`num_motion`: how many frames at the end of the chunk the next chunk is conditioned on."""
        self.chunk = chunk
        self.num_motion = num_motion
        self.num_slices = 0
        self.num_frames = 0
        self._motion_slices: list[Tensor] = []

    @property
    def is_complete(self) -> bool:
        """Whether every new frame has been decoded. Those after the end of a scene are not needed."""
        return self.num_frames >= self.chunk.overlap + self.chunk.num_new

    def add(self, frames_CFHW: Tensor, offload_device: torch.device) -> Tensor:
        """Count the next slice, copy its motion frames to `offload_device`, and return its new frames (maybe none)."""
        start, chunk = self.num_frames, self.chunk
        motion = frames_CFHW[:, max(chunk.stop - chunk.start - self.num_motion - start, 0) :]
        if motion.shape[1]:
            self._motion_slices.append(motion.to(offload_device, copy=True))
        self.num_slices += 1
        self.num_frames += frames_CFHW.shape[1]
        return frames_CFHW[:, max(chunk.overlap - start, 0) : chunk.overlap + chunk.num_new - start]

    def motion_frames(self, offload_device: torch.device) -> Tensor | None:
        """The last `num_motion` frames, 3 x F x H x W, once all are decoded; None where there are none."""
        slices = [each.to(offload_device) for each in self._motion_slices]
        return torch.cat(slices, dim=1) if slices else None
