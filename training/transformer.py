"""`python -m training.transformer RUNS DATA`: train the small video transformer on what `training.dataset` wrote.

Flow matching (Lipman et al. 2023): at time t the state is (1 - t) latent + t noise, and the network is asked for
noise - latent. Besides, every block's map of attention to the speakers is asked to find who a token belongs to:
binding then does not have to be discovered from the mouths alone.
Shapes: B batch, N persons, C latent channels, T latent frames, h x w latent rows and columns, L tokens.
"""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from training.dataset import embed_prompt
from training.muon import Muon
from training.parts import CONFIG, load_encoders
from training.run import DEVICE, Run, descend, schedule, step_generator
from wan.conditioning.latent import known_mask
from wan.modules import labels
from wan.modules.labels import SpeakerMasks, token_masks
from wan.modules.rope import video_rotation
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoSize, latent_frames, whole_latents

logger = logging.getLogger(__name__)

_SHIFT = 3.0
_MOUTH_WEIGHT = 3.0
_BINDING_WEIGHT = 0.05
_DAMAGE = 0.3
"""Deviation, at most, of the errors in the frames that a chunk continues from."""
_NO_SPEECH, _NO_TEXT = 0.1, 0.12
"""How often a batch hears nothing, and a clip reads the negative prompt, as the passes of the guidance do."""

_SHORT = 17
"""Frames that most batches are cut to: the VAE is causal, so that the beginning of a chunk needs nothing after it."""
_SHORT_SHARE = 0.6
_CELLS = 128
"""Latent cells of a frame of the smallest size."""

Batch = dict[str, Tensor]


class Shards:
    """Batches from the shards of a folder; new shards are found as they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[Path, Batch] = {}

    def refresh(self) -> None:
        """Read what is new; raises FileNotFoundError while there is nothing."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self.shards:
                self.shards[path] = load_file(path)
        if not self.shards:
            raise FileNotFoundError(f"{self.folder} holds no shards; `python -m training.dataset` writes them")

    def draw(self, rng: np.random.Generator, batch: int, frames: int) -> Batch:
        """The first `frames` of clips of one size and number of persons, from any shards that hold such.

        As many as have the tokens of `batch` whole chunks of the smallest frames.
        """
        shards = list(self.shards.values())
        like = shards[rng.integers(len(shards))]
        shape = (like["video"].shape[1:], like["speech"].shape[1])
        same = [shard for shard in shards if (shard["video"].shape[1:], shard["speech"].shape[1]) == shape]
        cells = like["video"].shape[-1] * like["video"].shape[-2]
        count = max(2, batch * _CELLS * latent_frames(CONFIG.frame_num) // (cells * latent_frames(frames)))
        chosen = [same[i] for i in rng.integers(len(same), size=count)]
        places = [int(rng.integers(len(shard["video"]))) for shard in chosen]
        examples = {
            name: torch.stack([shard[name][i] for shard, i in zip(chosen, places, strict=True)]).float().to(DEVICE)
            for name in like
        }
        return cut(examples, frames)


def cut(batch: Batch, frames: int) -> Batch:
    """The first `frames` (4n + 1) of every clip."""
    latents, margin = latent_frames(frames), CONFIG.transformer.audio_window - 1
    shorter = {name: batch[name][:, :, :latents] for name in ("video", "condition")}
    return batch | shorter | {"speech": batch["speech"][:, :, : frames + margin]}


class Objective:
    """The loss of a batch, and the figures that are watched; `negative` is the embedded negative prompt."""

    def __init__(self, model: MultiTalkTransformer, negative_1SC: Tensor) -> None:
        self.model, self.negative = model, negative_1SC
        mean, std = CONFIG.vae.latents_mean, CONFIG.vae.latents_std
        self.mean, self.std = (torch.tensor(values, device=DEVICE)[:, None, None, None] for values in (mean, std))

    def __call__(
        self, batch: Batch, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """`rng` draws what is left out of a batch, `generator`, on the batch's device, times, noise and damage."""
        latent, condition, handed = ((batch[name] - self.mean) / self.std for name in ("video", "condition", "handed"))
        size = _size(latent)
        deaf = bool(rng.random() < _NO_SPEECH)
        context = self._context(batch, size, rng, deaf)
        noise, t_B = draw_noise(latent, generator)
        t = t_B[:, None, None, None, None]
        clean = _first_frames(batch["clean"], latent)
        motion = clean | _first_frames(torch.where(batch["known"] > 1, batch["known"], 0), latent)
        damage = torch.where(motion, draw_damage(latent, generator), 0.0)
        known = torch.where(motion, _in_front(handed, latent), latent) + damage
        state = torch.where(clean, known, (1 - t) * known + t * noise)
        condition = condition + torch.where(clean, 0.0, damage)
        masks = torch.stack([known_mask(int(count), size) for count in batch["known"]]).to(latent.device)
        with class_maps() as maps:
            velocity = self.model(
                state,
                torch.cat((masks, condition), dim=1),
                self.model.embed_time(1000 * t_B),
                video_rotation(size.grid, CONFIG.transformer.head_dim, latent.device),
                context,
            )
        weight = 1 + _MOUTH_WEIGHT * batch["mouths"][:, None, None]
        error = (velocity - (noise - latent)).square() * ~clean
        flow = (error * weight).sum() / (weight * ~clean).expand_as(error).sum()
        figures = {"flow": flow.item(), "plain": error.mean().item()}
        if not maps:
            return flow, figures
        assert context.masks is not None
        binding, right = binding_loss(maps, context.masks)
        return flow + _BINDING_WEIGHT * binding, figures | {"binding": binding.item(), "bound": right}

    def _context(self, batch: Batch, size: VideoSize, rng: np.random.Generator, deaf: bool) -> Context:
        """What the pipeline would give, or for a deaf batch what its passes without speech are given."""
        unread = torch.from_numpy(rng.random(len(batch["text"])) < (0.5 if deaf else _NO_TEXT)).to(DEVICE)
        text = torch.where(unread[:, None, None], self.negative, batch["text"])
        speech = windows_of(batch["speech"])
        if deaf:
            speech = torch.zeros_like(speech[:, :1])
        two = speech.shape[1] == 2
        return Context(
            text=self.model.embed_text(text),
            image=self.model.embed_image(batch["image"]),
            speech=self.model.embed_speech(speech),
            masks=token_masks(batch["masks"], *size.grid[1:]) if two else None,
        )


def _size(latent_BCTHW: Tensor) -> VideoSize:
    """Of the clips behind the latents."""
    frames, height, width = latent_BCTHW.shape[2:]
    return VideoSize(
        frames=TEMPORAL_STRIDE * (frames - 1) + 1, height=SPATIAL_STRIDE * height, width=SPATIAL_STRIDE * width
    )


def draw_noise(latent_BCTHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise like the latents, and a time for every clip: B, logit-normal (Esser et al. 2024), shifted towards 1."""
    noise = torch.randn(latent_BCTHW.shape, generator=generator, device=latent_BCTHW.device)
    t_B = torch.sigmoid(torch.randn(len(latent_BCTHW), generator=generator, device=latent_BCTHW.device))
    return noise, _SHIFT * t_B / (1 + (_SHIFT - 1) * t_B)


def _in_front(handed_BCTHW: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """The latents with those that were handed over in place of the first."""
    count = min(handed_BCTHW.shape[2], latent_BCTHW.shape[2])
    return torch.cat((handed_BCTHW[:, :, :count], latent_BCTHW[:, :, count:]), dim=2)


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


def _first_frames(frames_B: Tensor, latent_BCTHW: Tensor) -> Tensor:
    """True where the latent belongs to the first `frames_B` video frames of a clip (0 for none)."""
    counts = [0 if f == 0 else latent_frames(whole_latents(int(f))) for f in frames_B]
    places = torch.arange(latent_BCTHW.shape[2])[None, :] < torch.tensor(counts)[:, None]
    places = places.to(latent_BCTHW.device)
    return places[:, None, :, None, None].expand_as(latent_BCTHW)


@contextlib.contextmanager
def class_maps() -> Iterator[list[Tensor]]:
    """Collects every block's map of attention to the classes, B x L x 3; the labels made of it get no gradient."""
    maps: list[Tensor] = []
    original = labels.attention_to_classes

    def recorded(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
        maps.append(original(q_BLAE, k_BLAE, masks))
        return maps[-1].detach()

    labels.attention_to_classes = recorded
    try:
        yield maps
    finally:
        labels.attention_to_classes = original


def binding_loss(maps: list[Tensor], masks: SpeakerMasks) -> tuple[Tensor, float]:
    """Cross entropy between a token's attention to the classes and the class that its place has in the first frame,
    mean over blocks; and the share of tokens that the largest value puts right."""
    frames = maps[0].shape[1] // masks.columns.shape[1]
    truth_BL3 = masks.columns.repeat(1, frames, 1)
    share = [map_BL3 / map_BL3.sum(-1, keepdim=True).clamp(min=1e-8) for map_BL3 in maps]
    entropy = torch.stack([-(truth_BL3 * (one + 1e-6).log()).sum(-1).mean() for one in share]).mean()
    right = torch.stack([(one.argmax(-1) == truth_BL3.argmax(-1)).float().mean() for one in share]).mean()
    return entropy, right.item()


def train(runs: Path, data: Path, steps: int, batch: int, peak: float, seed: int) -> None:
    """Train, or go on, until `steps`; the state is below `runs`."""
    torch.manual_seed(seed)
    model = MultiTalkTransformer(CONFIG.transformer).to(DEVICE)
    torch.nn.init.zeros_(model.head.head.weight)
    run = Run(runs / "transformer", model, optimiser_of(model, peak), decay=0.9985)
    shards, objective = Shards(data), Objective(model, embed_prompt(load_encoders(runs), CONFIG.negative_prompt))
    while run.step < steps:
        if run.step % 100 == 0 or not shards.shards:
            shards.refresh()
        rng = np.random.default_rng((seed, run.step))
        short = rng.random() < _SHORT_SHARE
        examples = shards.draw(rng, batch, (_SHORT if short else CONFIG.frame_num))
        loss, figures = objective(examples, rng, step_generator(seed, run.step))
        norm = descend(loss, run, schedule(run.step, steps))
        run.log({"loss": loss.item(), **figures, "gradient": norm})
        if run.step % 250 == 0:
            run.save()
    run.save()


def optimiser_of(model: MultiTalkTransformer, peak: float) -> Muon:
    """Muon for the blocks' matrices, Adam at a tenth of its rate for all else."""
    return Muon(model, lambda name: not name.startswith("blocks."), matrix_peak=peak, other_peak=peak / 10)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.transformer", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.runs, options.data, options.steps, options.batch, options.lr, options.seed)


if __name__ == "__main__":
    main()
