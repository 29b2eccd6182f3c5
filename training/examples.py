"""What the transformer is shown: clips in noise, the frames that it continues from, and what it is told.

At time t in 0..1 the state is (1 - t) latent + t noise (flow matching, Lipman et al. 2023).
Shapes: B batch, N persons, F video frames, C latent channels, T latent frames, h x w latent rows and columns.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from training.components import CONFIG
from training.shards import Batch
from training.training_loop import DEVICE
from wan.conditioning.latent import known_mask
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoSize, latent_frames, round_up_frames

_DAMAGE = 0.3
"""Deviation, at most, of the errors in the frames that a chunk continues from."""
_MEAN, _STD = (
    torch.tensor(values, device=DEVICE)[:, None, None, None]
    for values in (CONFIG.vae.latents_mean, CONFIG.vae.latents_std)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """A batch of clips, normalised, all B x C x T x h x w but for `size`.

    `latent` is what is asked for; `known` the same with the faults of the frames that a chunk continues from, which
    are `motion`; those in `clean` are never in noise (InfiniteTalk). `condition` has the mask channels in front.
    """

    latent: Tensor
    known: Tensor
    condition: Tensor
    noise: Tensor
    motion: Tensor
    clean: Tensor
    size: VideoSize

    def at(self, t_B: Tensor) -> Tensor:
        """The states at times 0..1."""
        t = t_B[:, None, None, None, None]
        return torch.where(self.clean, self.known, (1 - t) * self.known + t * self.noise)

    def velocity(self, model: MultiTalkTransformer, state_BCTHW: Tensor, t_B: Tensor, context: Context) -> Tensor:
        """What a network predicts."""
        return model(
            state_BCTHW,
            self.condition,
            model.embed_time(1000 * t_B),
            video_rope(self.size.grid, CONFIG.transformer.head_dim, state_BCTHW.device),
            context,
        )


def prepare(batch: Batch, generator: torch.Generator) -> Examples:
    """Noise and faults from the generator, which is on the batch's device."""
    latent, condition, handed = ((batch[name] - _MEAN) / _STD for name in ("video", "condition", "handed"))
    size = _size(latent)
    noise = torch.randn(latent.shape, generator=generator, device=latent.device)
    clean = _first_frames(batch["clean"], latent)
    motion = clean | _first_frames(torch.where(batch["known"] > 1, batch["known"], 0), latent)
    damage = torch.where(motion, draw_damage(latent, generator), 0.0)
    masks = torch.stack([known_mask(int(count), size) for count in batch["known"]]).to(latent.device)
    return Examples(
        latent=latent,
        known=torch.where(motion, _in_front(handed, latent), latent) + damage,
        condition=torch.cat((masks, condition + torch.where(clean, 0.0, damage)), dim=1),
        noise=noise,
        motion=motion,
        clean=clean,
        size=size,
    )


def context_of(model: MultiTalkTransformer, batch: Batch, text_BSC: Tensor, hears: bool) -> Context:
    """What the pipeline would give a network, or what it gives its passes without speech."""
    speech = windows_of(batch["speech"])
    if not hears:
        speech = torch.zeros_like(speech[:, :1])
    grid = _size(batch["video"]).grid
    return Context(
        text=model.embed_text(text_BSC),
        image=model.embed_image(batch["image"]),
        speech=model.embed_speech(speech),
        masks=token_masks(batch["masks"], *grid[1:]) if speech.shape[1] == 2 else None,
    )


def draw_damage(latent_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    """What a chunk's own faults do to the frames that the next one continues from: errors that mostly stay in place.

    The network is asked for the clean clip all the same, and so learns to mend them instead of adding to them.
    """
    device = latent_BCTHW.device
    strength = _DAMAGE * torch.rand(len(latent_BCTHW), 1, 1, 1, 1, generator=generator, device=device)
    lasting = torch.randn(latent_BCTHW[:, :, :1].shape, generator=generator, device=device)
    return strength * (lasting + 0.5 * torch.randn(latent_BCTHW.shape, generator=generator, device=device))


def windows_of(speech_BNFYC: Tensor) -> Tensor:
    """States with margins to windows: B x N x F x W x Y x C."""
    return rearrange(speech_BNFYC.unfold(2, CONFIG.transformer.audio_window, 1), "b n f y c w -> b n f w y c")


def _size(latent_BCTHW: Tensor) -> VideoSize:
    """Of the clips behind the latents."""
    frames, height, width = latent_BCTHW.shape[2:]
    return VideoSize(
        frames=TEMPORAL_STRIDE * (frames - 1) + 1, height=SPATIAL_STRIDE * height, width=SPATIAL_STRIDE * width
    )


def _in_front(handed_BCTHW: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """The latents with those that were handed over in place of the first."""
    count = min(handed_BCTHW.shape[2], latent_BCTHW.shape[2])
    return torch.cat((handed_BCTHW[:, :, :count], latent_BCTHW[:, :, count:]), dim=2)


def _first_frames(frames_B: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """True where the latent belongs to the first `frames_B` video frames of a clip (0 for none)."""
    counts = [0 if f == 0 else latent_frames(round_up_frames(int(f))) for f in frames_B]
    places = torch.arange(latent_BCTHW.shape[2])[None, :] < torch.tensor(counts)[:, None]
    return places.to(latent_BCTHW.device)[:, None, :, None, None].expand_as(latent_BCTHW)
