"""Training inputs of the transformer: noised latents, corrupted conditioning frames and contexts.

At time t in 0..1 the state is (1 - t) * latent + t * noise (flow matching, Lipman et al. 2023).
Shapes: B batch, N persons, F video frames, C latent channels, T latent frames, h x w latent rows and columns.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from training.components import CONFIG
from training.shards import Batch
from training.training_loop import DEVICE
from wan.conditioning.latent import MASK_CHANNELS, known_mask
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoSize, latent_frames, round_up_frames

_CORRUPTION = 0.3
"""Maximum standard deviation of the corruption of motion frames."""
_MEAN, _STD = (
    torch.tensor(values, device=DEVICE)[:, None, None, None]
    for values in (CONFIG.vae.latents_mean, CONFIG.vae.latents_std)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """A batch of normalized latents, all B x C x T x h x w except `size`.

    `latent`: the target. `corrupted`: the same with corrupted motion frames. `motion`: mask of the motion frames.
    `clean`: mask of the frames without noise (InfiniteTalk). `condition` starts with the mask channels.
    """

    latent: Tensor
    corrupted: Tensor
    condition: Tensor
    noise: Tensor
    motion: Tensor
    clean: Tensor
    size: VideoSize

    def noised_at(self, t_B: Tensor) -> Tensor:
        """The noised latents at times 0..1."""
        t = t_B[:, None, None, None, None]
        return torch.where(self.clean, self.corrupted, (1 - t) * self.corrupted + t * self.noise)

    def with_true_history(self) -> "Examples":
        """The same examples with motion frames without errors."""
        masks, condition = self.condition.split([MASK_CHANNELS, self.latent.shape[1]], dim=1)
        condition = torch.where(self.motion & ~self.clean, self.latent, condition)
        return replace(self, corrupted=self.latent, condition=torch.cat((masks, condition), dim=1))

    def predict_velocity(
        self, model: MultiTalkTransformer, state_BCTHW: Tensor, t_B: Tensor, context: Context
    ) -> Tensor:
        """The velocity that a network predicts."""
        return model(
            state_BCTHW,
            self.condition,
            model.embed_time(1000 * t_B),
            video_rope(self.size.grid, CONFIG.transformer.head_dim, state_BCTHW.device),
            context,
        )


def prepare(batch: Batch, generator: torch.Generator) -> Examples:
    """Add noise and corruption to a batch; `generator` is on its device."""
    latent, condition, handed = ((batch[name] - _MEAN) / _STD for name in ("video", "condition", "handed"))
    size = _size(latent)
    noise = torch.randn(latent.shape, generator=generator, device=latent.device)
    clean = _first_frames(batch["clean"], latent)
    motion = clean | _first_frames(torch.where(batch["known"] > 1, batch["known"], 0), latent)
    corruption = torch.where(motion, sample_corruption(latent, generator), 0.0)
    masks = torch.stack([known_mask(int(count), size) for count in batch["known"]]).to(latent.device)
    return Examples(
        latent=latent,
        corrupted=torch.where(motion, _replace_leading_frames(handed, latent), latent) + corruption,
        condition=torch.cat((masks, condition + torch.where(clean, 0.0, corruption)), dim=1),
        noise=noise,
        motion=motion,
        clean=clean,
        size=size,
    )


def make_context(model: MultiTalkTransformer, batch: Batch, text_BSC: Tensor, with_speech: bool) -> Context:
    """Conditioning as in the pipeline, or as in its passes without speech."""
    speech = to_windows(batch["speech"])
    if not with_speech:
        speech = torch.zeros_like(speech[:, :1])
    grid = _size(batch["video"]).grid
    return Context(
        text=model.embed_text(text_BSC),
        image=model.embed_image(batch["image"]),
        speech=model.embed_speech(speech),
        masks=token_masks(batch["masks"], *grid[1:]) if speech.shape[1] == 2 else None,
    )


def sample_corruption(latent_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    """Corruption of motion frames like that of generated chunks: errors that are mostly constant in time.

    The target stays clean, so that the network learns to correct such errors instead of accumulating them.
    """
    device = latent_BCTHW.device
    strength = _CORRUPTION * torch.rand(len(latent_BCTHW), 1, 1, 1, 1, generator=generator, device=device)
    constant = torch.randn(latent_BCTHW[:, :, :1].shape, generator=generator, device=device)
    return strength * (constant + 0.5 * torch.randn(latent_BCTHW.shape, generator=generator, device=device))


def to_windows(speech_BNFYC: Tensor) -> Tensor:
    """Sliding windows over embeddings with margins: B x N x F x W x Y x C."""
    return rearrange(speech_BNFYC.unfold(2, CONFIG.transformer.audio_window, 1), "b n f y c w -> b n f w y c")


def _size(latent_BCTHW: Tensor) -> VideoSize:
    """Size of the videos whose latents these are."""
    frames, height, width = latent_BCTHW.shape[2:]
    return VideoSize(
        frames=TEMPORAL_STRIDE * (frames - 1) + 1, height=SPATIAL_STRIDE * height, width=SPATIAL_STRIDE * width
    )


def _replace_leading_frames(handed_BCTHW: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """Replace the leading latent frames by those handed over from the previous chunk."""
    count = min(handed_BCTHW.shape[2], latent_BCTHW.shape[2])
    return torch.cat((handed_BCTHW[:, :, :count], latent_BCTHW[:, :, count:]), dim=2)


def _first_frames(frames_B: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """Mask of the latent frames of the first `frames_B` video frames of each clip."""
    counts = [0 if f == 0 else latent_frames(round_up_frames(int(f))) for f in frames_B]
    is_first = torch.arange(latent_BCTHW.shape[2])[None, :] < torch.tensor(counts)[:, None]
    return is_first.to(latent_BCTHW.device)[:, None, :, None, None].expand_as(latent_BCTHW)
