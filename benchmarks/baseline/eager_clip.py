"""A whole clip of the small model in its plain form: the plain transformer, and the library's VAE with its own loops.

Everything else (speech, text and image encoders, sampling) is the same code. Shapes: C channels, F video frames,
T latent frames, H x W.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.baseline.eager_transformer import PlainTransformer
from benchmarks.speed.ablation import plain_guidance
from wan import MultiTalkPipeline
from wan.modules.transformer import MultiTalkTransformer, TimeEmbedding
from wan.modules.vae import VideoVAE
from wan.sampling.denoise import Denoiser


class PlainModel:
    """Stands where the pipeline has the transformer: embeds nothing beforehand."""

    def __init__(self, model: MultiTalkTransformer) -> None:
        self.forward = PlainTransformer(model.state_dict(), model.config)
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def embed_time(self, t_B: Tensor) -> TimeEmbedding:
        """The time itself."""
        return TimeEmbedding(t_B, t_B)

    def embed_text(self, states_BSC: Tensor) -> Tensor:
        """The encoder's states."""
        return states_BSC[0]

    def embed_image(self, tokens_BSC: Tensor) -> Tensor:
        """The encoder's states."""
        return tokens_BSC[0]

    def embed_speech(self, windows_BNFWYC: Tensor) -> Tensor:
        """The windows."""
        return windows_BNFWYC[0]


class PlainVelocity(Denoiser):
    """The plain form on each pass; the contexts hold what `PlainModel` left as it was."""

    def __call__(self, x_CTHW: Tensor, step: int) -> dict[str, Tensor]:
        assert self.plan[step].computed, "the plain form computes every step"
        model: Any = self.model
        time, masks_3HW = self.times[step].temb[0], self._masks()

        def velocity(context: Any) -> Tensor:
            given = (time, context.text, context.image, context.speech, masks_3HW)
            return model.forward(x_CTHW, self.condition[0], *given)

        return {name: velocity(self.contexts[name]) for name in self.plan[step].passes}

    def _masks(self) -> Tensor:
        """Of the token grid; for one person, whose labels count for nothing, everybody is everywhere."""
        rows, columns = self.grid[1:]
        masks = next((each.masks for each in self.contexts.values() if each.masks is not None), None)
        everybody = torch.ones(rows * columns, 3) if masks is None else masks.masks[0]
        return everybody.T.unflatten(1, (rows, columns))


class PlainVAE(VideoVAE):
    """The library's own loops over time, with its own layout of the weights."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def encode(self, video_CFHW: Tensor, rest: torch.device | None = None, frames: int | None = None) -> Tensor:
        """As `VideoVAE.encode`."""
        missing = max(0, (frames or 0) - video_CFHW.shape[1])
        video_CFHW = F.pad(video_CFHW, (0, 0, 0, 0, 0, missing))
        mean, std = self._statistics(self.model.device)
        return (self.model.encode(video_CFHW[None]).latent_dist.mode()[0] - mean) / std

    def decode(self, latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        """As `VideoVAE.decode`, in one slice."""
        mean, std = self._statistics(self.model.device)
        yield self.model.decode((latent_CTHW * std + mean)[None]).sample[0].clamp(-1, 1)


@contextmanager
def in_plain_form(pipeline: MultiTalkPipeline) -> Iterator[None]:
    """Let a pipeline make its clips plainly."""
    ours = pipeline.models
    plain: Any = PlainModel(ours.transformer)
    pipeline.models = replace(ours, transformer=plain, vae=PlainVAE(ours.vae.model))
    try:
        with (
            mock.patch("wan.multitalk.Denoiser", PlainVelocity),
            mock.patch("wan.sampling.guidance.guidance_terms", plain_guidance),
        ):
            yield
    finally:
        pipeline.models = ours
