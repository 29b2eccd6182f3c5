"""Sampling of chunk latents: all that runs the transformer, from encoded conditions to the latent of a chunk.

The inputs of `ChunkSampler` can be pickled, so that several processes can run the same chunk (`wan.parallel`).

Shapes: B = 1 batch, C latent channels, F video frames, T latent frames, H x W, N persons, S tokens of a context.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wan.configs.schema import ModelConfig
from wan.modules.rope import RotaryEmbedding, video_rope
from wan.modules.speaker_labels import SpeakerMasks, token_masks
from wan.modules.transformer import Context, KVCache, MultiTalkTransformer, TimeEmbedding
from wan.sampling.denoise import Denoiser, MotionLatents, denoise, draw_noise
from wan.sampling.guidance import PASSES
from wan.sampling.mesh import SINGLE_RANK, Mesh
from wan.sampling.options import SamplingOptions
from wan.sampling.plan import Step, plan_chunk
from wan.sampling.schedule import timesteps
from wan.types import VideoSize

OnStep = Callable[[Sequence[Step], int], None]
"""Called after each denoising step with the plan of the chunk and the number of steps done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCondition:
    """What all chunks of a clip are conditioned on.

    `text_states`: encoded prompt (True) and negative prompt (False), as far as a pass uses them, 1 x S x text_dim.
    `masks_3HW`: person 1, person 2 and background on the latent grid; None for one person.
    """

    options: SamplingOptions
    size: VideoSize
    text_states: Mapping[bool, Tensor]
    masks_3HW: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCondition:
    """What one chunk is conditioned on.

    `condition_CTHW`: mask and latent, 20 channels. `image_tokens`: CLIP states, 1 x S x image_dim. `speech_windows`:
    1 x N x F x audio_window x audio_layers x audio_dim. `motion`: the motion latents, given the noise generator.
    """

    condition_CTHW: Tensor
    image_tokens: Tensor
    speech_windows: Tensor
    motion: Callable[[torch.Generator], MotionLatents]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """What all chunks of a clip share, on the device.

    `text_kv` holds the keys and values of each guidance pass's prompt; `silent_kv` those of silence, which are empty
    where every pass has speech. `speaker_masks` is None for one person.
    """

    options: SamplingOptions
    size: VideoSize
    speaker_masks: SpeakerMasks | None
    text_kv: Mapping[str, KVCache]
    silent_kv: KVCache
    timesteps: list[float]
    time_embeddings: list[TimeEmbedding]
    rotary_emb: RotaryEmbedding
    steps: tuple[Step, ...]


class ChunkSampler:
    """Runs the transformer of one model on one device."""

    def __init__(
        self,
        config: ModelConfig,
        transformer: MultiTalkTransformer,
        device: torch.device,
        make_mesh: Callable[[int], Mesh] = lambda num_passes: SINGLE_RANK,
    ) -> None:
        """`make_mesh`: the mesh of a chunk of so many guidance passes, the same on every rank."""
        self.config = config
        self.transformer = transformer
        self.device = device
        self.make_mesh = make_mesh

    @torch.inference_mode()
    def prepare(self, clip: ClipCondition) -> ClipState:
        """Compute what the chunks of a clip share: time embeddings, keys and values of the prompts, the step plan."""
        transformer, options, size, masks = self.transformer, clip.options, clip.size, clip.masks_3HW
        embeddings = self.embed_times(options)
        steps = self.plan_steps(options, embeddings)
        text_kv = {key: transformer.embed_text(states.to(self.device)) for key, states in clip.text_states.items()}
        speaks_always = all(PASSES[name].speech for step in steps for name in step.passes)
        return ClipState(
            options=options,
            size=size,
            speaker_masks=None if masks is None else token_masks(masks[None].to(self.device), *size.grid[1:]),
            text_kv={name: text_kv[PASSES[name].prompt] for name in options.guider().passes},
            silent_kv=() if speaks_always else transformer.embed_speech(self._silent_windows(size)),
            timesteps=timesteps(options.sampling_steps, options.shift).tolist(),
            time_embeddings=embeddings,
            rotary_emb=video_rope(size.grid, transformer.config.head_dim, self.device),
            steps=steps,
        )

    @torch.inference_mode()
    def embed_times(self, options: SamplingOptions) -> list[TimeEmbedding]:
        """The time embedding of each step."""
        times = timesteps(options.sampling_steps, options.shift)[:-1].to(self.device)
        return [self.transformer.embed_time(t[None]) for t in times]

    def plan_steps(self, options: SamplingOptions, embeddings: Sequence[TimeEmbedding]) -> tuple[Step, ...]:
        """Which guidance passes each step of a chunk computes."""
        return plan_chunk(self.config, options, [embedding.timestep_proj for embedding in embeddings])

    @torch.inference_mode()
    def sample(self, clip: ClipState, chunk: ChunkCondition, generator: torch.Generator, on_step: OnStep) -> Tensor:
        """The latent of a chunk, float32 16 x T x H/8 x W/8. `generator` draws the initial and the motion noise."""
        contexts = self._contexts(clip, chunk)
        guider = clip.options.guider()
        noise = draw_noise((self.config.transformer.out_dim, *clip.size.latent), generator)
        denoiser = Denoiser(
            self.transformer,
            chunk.condition_CTHW.to(self.device),
            contexts,
            clip.time_embeddings,
            clip.rotary_emb,
            clip.size.grid,
            clip.steps,
            self.make_mesh(len(guider.passes)),
        )
        return denoise(
            noise,
            clip.timesteps,
            denoiser,
            guider,
            chunk.motion(generator),
            on_step=lambda step: on_step(clip.steps, step),
        )

    def _contexts(self, clip: ClipState, chunk: ChunkCondition) -> dict[str, Context]:
        """What each guidance pass of a chunk is conditioned on."""
        image_kv = self.transformer.embed_image(chunk.image_tokens.to(self.device))
        speech_kv = self.transformer.embed_speech(chunk.speech_windows.to(self.device))
        return {
            name: Context(
                text=text_kv,
                image=image_kv,
                speech=speech_kv if PASSES[name].speech else clip.silent_kv,
                masks=clip.speaker_masks if PASSES[name].speech else None,
            )
            for name, text_kv in clip.text_kv.items()
        }

    def _silent_windows(self, size: VideoSize) -> Tensor:
        """Zero speech windows of one person, for passes without speech, which have no speaker labels."""
        sizes = self.config.transformer
        return torch.zeros(
            1, 1, size.frames, sizes.audio_window, sizes.audio_layers, sizes.audio_dim, device=self.device
        )
