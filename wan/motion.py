"""How a chunk begins. MultiTalk is shown the frames that the chunk before ended in; InfiniteTalk is shown one frame of
the source, and the frames that the chunk before ended in are kept in place while the rest is denoised.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wan.conditioning.latent import MASK_CHANNELS, condition_latent
from wan.configs.schema import Mode
from wan.modules.vae import VideoVAE
from wan.sampling.denoise import CleanMotion, MotionLatents, NoisedMotion
from wan.types import VideoSize, latent_frames


class LastValueCache:
    """What was last made of a frame, for the chunks that are shown the same one."""

    def __init__(self) -> None:
        self.frame: Tensor | None = None
        self.made: Tensor | None = None

    def recall(self, frame: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What `make` gives for the frame; made again only for another tensor than the last one."""
        if self.made is None or frame is not self.frame:
            self.frame, self.made = frame, make(frame)
        return self.made


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInputs:
    """What is there before a chunk is made, all in [-1, 1].

    `frame_CHW` is the picture, or the source's frame at the chunk's start; `first_CHW` is the one its scene began with,
    whose colours are kept; `last_CFHW` are the frames that the chunk repeats, None where a scene begins. `memory` goes
    from chunk to chunk.
    """

    frame_CHW: Tensor
    first_CHW: Tensor
    last_CFHW: Tensor | None
    memory: LastValueCache = field(default_factory=LastValueCache)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCondition:
    """`condition_CTHW` is mask and latent, 20 channels; `seen_CHW` is what the image encoder is to see."""

    condition_CTHW: Tensor
    seen_CHW: Tensor
    motion: MotionLatents


Conditioner = Callable[[VideoVAE, ChunkInputs, VideoSize, torch.Generator, torch.device], ChunkCondition]
"""The last two: where the motion's noise is drawn from, and where the VAE's features wait between slices."""


def condition_multitalk(
    vae: VideoVAE, given: ChunkInputs, size: VideoSize, generator: torch.Generator, rest: torch.device
) -> ChunkCondition:
    """The last frames, or where a scene begins the picture, are condition; the last frames come back in the noise."""
    known = given.frame_CHW[:, None].to(rest) if given.last_CFHW is None else given.last_CFHW
    condition = condition_latent(vae, known, size, rest)
    motion = None if given.last_CFHW is None else condition[MASK_CHANNELS:, : latent_frames(known.shape[1])]
    return ChunkCondition(condition_CTHW=condition, seen_CHW=known[:, -1], motion=NoisedMotion(motion, generator))


def condition_infinitetalk(
    vae: VideoVAE, given: ChunkInputs, size: VideoSize, generator: torch.Generator, rest: torch.device
) -> ChunkCondition:
    """The source's frame is condition; it, or the last frames, stay in place without noise."""

    def encode(frame_CHW: Tensor) -> Tensor:
        return condition_latent(vae, frame_CHW[:, None].to(rest), size, rest)

    condition = given.memory.recall(given.frame_CHW, encode)
    if given.last_CFHW is None:
        motion = CleanMotion(condition[MASK_CHANNELS:, :1], None)
    else:
        motion = CleanMotion(vae.encode(given.last_CFHW, rest), generator)
    return ChunkCondition(condition_CTHW=condition, seen_CHW=given.frame_CHW, motion=motion)


CONDITIONERS: dict[Mode, Conditioner] = {"multitalk": condition_multitalk, "infinitetalk": condition_infinitetalk}
