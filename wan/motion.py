"""What a chunk is conditioned on.

MultiTalk conditions on the last frames of the previous chunk. InfiniteTalk conditions on the image or on one frame of
the video, and re-imposes the last frames of the previous chunk at each denoising step.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from wan.conditioning.latent import MASK_CHANNELS, condition_latent
from wan.configs.schema import Mode
from wan.modules.vae import VideoVAE
from wan.sampling.denoise import CleanMotion, MotionLatents, NoisedMotion
from wan.types import VideoSize, latent_frames


class LastValueCache:
    """One-entry cache keyed by tensor identity."""

    def __init__(self) -> None:
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def get(self, key: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """`compute(key)`, computed again only when `key` is another tensor than in the last call."""
        if self._value is None or key is not self._key:
            self._key, self._value = key, compute(key)
        return self._value


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInputs:
    """Frames that a chunk starts from, all in [-1, 1].

    `clip_frame_CHW` is the image, or the video's frame at the chunk's start; `motion_frames_CFHW` are the last frames
    of the previous chunk, None where a scene begins. `cache` is shared by all chunks of a clip.
    """

    clip_frame_CHW: Tensor
    motion_frames_CFHW: Tensor | None
    cache: LastValueCache = field(default_factory=LastValueCache)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStart:
    """`condition_CTHW` is mask and latent, 20 channels; `clip_frame_CHW` is the input of the image encoder.

    `motion` makes the motion latents of the generator that draws their noise.
    """

    condition_CTHW: Tensor
    clip_frame_CHW: Tensor
    motion: Callable[[torch.Generator], MotionLatents]


Conditioner = Callable[[VideoVAE, ChunkInputs, VideoSize, torch.device], ChunkStart]
"""The device is where the VAE's feature cache is kept between slices."""


def condition_multitalk(
    vae: VideoVAE, inputs: ChunkInputs, size: VideoSize, offload_device: torch.device
) -> ChunkStart:
    """Condition on the motion frames, or on the image where a scene begins; noise the motion latents at each step."""
    motion = inputs.motion_frames_CFHW
    known = inputs.clip_frame_CHW[:, None].to(offload_device) if motion is None else motion
    condition = condition_latent(vae, known, size, offload_device)
    latents = None if motion is None else condition[MASK_CHANNELS:, : latent_frames(known.shape[1])]
    return ChunkStart(condition_CTHW=condition, clip_frame_CHW=known[:, -1], motion=partial(NoisedMotion, latents))


def condition_infinitetalk(
    vae: VideoVAE, inputs: ChunkInputs, size: VideoSize, offload_device: torch.device
) -> ChunkStart:
    """Condition on the clip frame; keep its latent, or the motion latents, without noise at each step."""

    def encode(frame_CHW: Tensor) -> Tensor:
        return condition_latent(vae, frame_CHW[:, None].to(offload_device), size, offload_device)

    condition = inputs.cache.get(inputs.clip_frame_CHW, encode)
    if inputs.motion_frames_CFHW is None:
        motion = partial(CleanMotion, condition[MASK_CHANNELS:, :1], draws_noise=False)
    else:
        motion = partial(CleanMotion, vae.encode(inputs.motion_frames_CFHW, offload_device), draws_noise=True)
    return ChunkStart(condition_CTHW=condition, clip_frame_CHW=inputs.clip_frame_CHW, motion=motion)


CONDITIONERS: dict[Mode, Conditioner] = {"multitalk": condition_multitalk, "infinitetalk": condition_infinitetalk}
