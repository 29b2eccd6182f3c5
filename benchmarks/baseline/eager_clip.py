"""Eager baseline of a whole clip: the eager transformer, and the VAE of diffusers with its own loop over time.

Speech, text and image encoders and the sampler are those of the pipeline. Shapes: C channels, F video frames,
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

from benchmarks.baseline.eager_transformer import EagerTransformer
from benchmarks.speed.ablation import eager_guidance
from wan import MultiTalkPipeline
from wan.modules.transformer import MultiTalkTransformer, TimeEmbedding
from wan.modules.vae import VideoVAE
from wan.sampling.denoise import Denoiser
from wan.sampling.sampler import ChunkSampler


class EagerTransformerAdapter:
    """Replaces the pipeline's transformer; precomputes no embeddings."""

    def __init__(self, model: MultiTalkTransformer) -> None:
        self.forward = EagerTransformer(model.state_dict(), model.config)
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def embed_time(self, t_B: Tensor) -> TimeEmbedding:
        """Returns the timestep unchanged."""
        return TimeEmbedding(t_B, t_B)

    def embed_text(self, states_BSC: Tensor) -> Tensor:
        """Returns the encoder's states unchanged."""
        return states_BSC[0]

    def embed_image(self, tokens_BSC: Tensor) -> Tensor:
        """Returns the encoder's states unchanged."""
        return tokens_BSC[0]

    def embed_speech(self, windows_BNFWYC: Tensor) -> Tensor:
        """Returns the speech windows unchanged."""
        return windows_BNFWYC[0]


class EagerDenoiser(Denoiser):
    """Runs the eager transformer once per guidance pass; the contexts hold the inputs of `EagerTransformerAdapter`."""

    def __call__(self, x_CTHW: Tensor, step: int) -> dict[str, Tensor]:
        assert self.plan[step].computed, "the eager baseline has no step cache"
        model: Any = self.model
        time, masks_3HW = self.time_embeddings[step].temb[0], self._masks()

        def velocity(context: Any) -> Tensor:
            args = (time, context.text, context.image, context.speech, masks_3HW)
            return model.forward(x_CTHW, self.condition[0], *args)

        return {name: velocity(self.contexts[name]) for name in self.plan[step].passes}

    def _masks(self) -> Tensor:
        """Masks on the token grid; all ones for one person, whose labels are not used."""
        rows, columns = self.grid[1:]
        masks = next((each.masks for each in self.contexts.values() if each.masks is not None), None)
        masks_S3 = torch.ones(rows * columns, 3) if masks is None else masks.masks[0]
        return masks_S3.T.unflatten(1, (rows, columns))


class EagerVAE(VideoVAE):
    """diffusers' own loop over time and contiguous weights."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def encode(
        self, video_CFHW: Tensor, offload_device: torch.device | None = None, num_frames: int | None = None
    ) -> Tensor:
        """See `VideoVAE.encode`."""
        padding = max(0, (num_frames or 0) - video_CFHW.shape[1])
        video_CFHW = F.pad(video_CFHW, (0, 0, 0, 0, 0, padding))
        mean, std = self._statistics(self.model.device)
        return (self.model.encode(video_CFHW[None]).latent_dist.mode()[0] - mean) / std

    def decode(self, latent_CTHW: Tensor, offload_device: torch.device | None = None) -> Iterator[Tensor]:
        """See `VideoVAE.decode`; yields all frames at once."""
        mean, std = self._statistics(self.model.device)
        yield self.model.decode((latent_CTHW * std + mean)[None]).sample[0].clamp(-1, 1)


@contextmanager
def eager_baseline(pipeline: MultiTalkPipeline) -> Iterator[None]:
    """Make a pipeline generate clips with the eager baseline."""
    models, sampler = pipeline.models, pipeline.sampler
    transformer: Any = EagerTransformerAdapter(models.transformer)
    pipeline.models = replace(models, transformer=transformer, vae=EagerVAE(models.vae.model))
    pipeline.sampler = ChunkSampler(pipeline.config, transformer, pipeline.device)
    try:
        with (
            mock.patch("wan.sampling.sampler.Denoiser", EagerDenoiser),
            mock.patch("wan.sampling.guidance.guidance_terms", eager_guidance),
        ):
            yield
    finally:
        pipeline.models, pipeline.sampler = models, sampler
