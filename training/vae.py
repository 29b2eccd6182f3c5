"""`python -m training.vae DIR`: train the small video VAE on crops of drawn clips.

The networks are convolutional: what learns on crops of 64 x 64 pixels and 9 frames serves pictures of any size.
Shapes: B batch, C channels, F frames, H x W pixels.
"""

import argparse
import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from training.components import CONFIG, filled, placed
from training.muon import Muon
from training.scenes import SMALL, draw_scene, render
from training.training_loop import DEVICE, TrainingRun, descend, load_average, schedule, step_generator
from wan.modules.vae import build_vae

logger = logging.getLogger(__name__)

_CROP = 64
_KL_WEIGHT = 1e-4
_DARK_WEIGHT = 2.0
"""Of what is as dark as an open mouth."""


def draw_crops(rng: np.random.Generator, batch: int, frames: int) -> Tensor:
    """Crops of clips of new people whose mouths move at random: B x 3 x F x 64 x 64 in [-1, 1]."""
    return torch.stack([_draw_crop(rng, frames) for _ in range(batch)])


def _draw_crop(rng: np.random.Generator, frames: int) -> Tensor:
    persons = int(rng.integers(1, 3))
    size = list(SMALL.values())[rng.integers(len(SMALL))]
    scene = draw_scene(rng, persons, size, frames, "train")
    openings = [np.clip(_wander(rng, frames) * 0.8 + 0.3, 0, 1) for _ in range(persons)]
    shapes = [np.clip(_wander(rng, frames), -1, 1) for _ in range(persons)]
    clip = render(scene, openings, shapes, start=int(rng.integers(0, 8)))
    top, left = (int(rng.integers(0, side - _CROP + 1)) for side in size)
    pixels = clip[:, top : top + _CROP, left : left + _CROP].astype(np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(3, 0, 1, 2)


def _wander(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Noise as fast as syllables, about unit variance."""
    return np.convolve(rng.standard_normal(frames + 4), (0.3, 0.5, 0.6, 0.5, 0.3), mode="valid")


class SingleFrames:
    """Context in which causal convolutions of one frame without a past run in two dimensions.

    The frames before the first are zeros, so that only the last tap in time counts: same numbers, a third of the work.
    """

    def __enter__(self) -> None:
        self.forward = forward = WanCausalConv3d.forward

        def shorter(conv: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
            if cache_x is not None or x.shape[2] > 1 or conv.kernel_size[0] != 3:
                return forward(conv, x, cache_x)
            flat = F.pad(x[:, :, 0], conv._padding[:4])
            return F.conv2d(flat, conv.weight[:, :, -1], conv.bias)[:, :, None]

        WanCausalConv3d.forward = shorter

    def __exit__(self, *_: object) -> None:
        WanCausalConv3d.forward = self.forward


def start_from_pictures(model: AutoencoderKLWan) -> None:
    """Make the fresh network treat every frame by itself: taps into the past are zero, time is halved by dropping
    frames and doubled by repeating them. What it learns on pictures then holds for clips from the start."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, WanCausalConv3d) or module.kernel_size[0] != 3:
                continue
            if name.endswith("time_conv"):
                module.bias.zero_()
                copies = module.out_channels // module.in_channels
                module.weight[:, :, -1, 0, 0] = torch.eye(module.in_channels).repeat(copies, 1)
            module.weight[:, :, :-1] = 0


def decode(model: AutoencoderKLWan, latent_BCTHW: Tensor) -> Tensor:
    """What the library decodes to before it clamps, whose gradient would be lost."""
    features: dict[int, Any] = defaultdict(lambda: None)
    z = model.post_quant_conv(latent_BCTHW)
    slices = [
        model.decoder(z[:, :, i : i + 1], feat_cache=features, feat_idx=[0], first_chunk=i == 0)
        for i in range(z.shape[2])
    ]
    return torch.cat(slices, dim=2)


def loss_of(
    model: AutoencoderKLWan, video_BCFHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The picture's error, and the KL term."""
    with SingleFrames():
        posterior = model.encode(video_BCFHW).latent_dist
        shown = decode(model, posterior.sample(generator))
    pixels, figures = picture_loss(shown, video_BCFHW)
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return pixels + _KL_WEIGHT * kl, {**figures, "kl": kl.item()}


def picture_loss(shown_BCFHW: Tensor, video_BCFHW: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Error of pixels and of their differences, dark pixels (mouths, eyes) heavier; and the PSNR."""
    error = shown_BCFHW - video_BCFHW
    weight = 1 + _DARK_WEIGHT * torch.sigmoid(-10 * (video_BCFHW.mean(1, keepdim=True) + 0.65))
    pixels = ((error.abs() + 2 * error.square()) * weight).mean()
    edges = torch.stack([error.diff(dim=axis).abs().mean() for axis in (3, 4)]).sum()
    if error.shape[2] > 1:
        edges = edges + 2 * (error.diff(dim=2).abs() * weight[:, :, 1:]).mean()
    mse = error.detach().square().mean() / 4
    return pixels + 0.5 * edges, {"psnr": (-10 * mse.log10()).item()}


def train(folder: Path, pictures: int, clips: int, seed: int) -> None:
    """Train, or go on: steps on batches of 10 pictures, then steps on batches of 3 clips."""
    torch.manual_seed(seed)
    model = build_vae(CONFIG.vae)
    start_from_pictures(model.to(DEVICE))
    run = TrainingRun(folder, model, Muon(model, apart=lambda name: "conv_in" in name or "conv_out" in name))
    while run.step < pictures + clips:
        rng = np.random.default_rng((seed, run.step))
        still = run.step < pictures
        share = schedule(run.step, pictures) if still else schedule(run.step - pictures, clips)
        video = draw_crops(rng, 10, 1) if still else draw_crops(rng, 3, int(rng.choice([5, 9, 9, 13])))
        loss, figures = loss_of(model, video.to(DEVICE), step_generator(seed, run.step))
        norm = descend(loss, run, share)
        run.log({"loss": loss.item(), **figures, "gradient": norm}, every=20)
        if run.step % 100 == 0:
            run.save()
    run.save()


@torch.inference_mode()
def latent_statistics(model: AutoencoderKLWan, batches: int, seed: int) -> dict[str, list[float]]:
    """Mean and deviation of every latent channel over crops, for the model's configuration."""
    rng = np.random.default_rng((seed, 1))
    means = [model.encode(draw_crops(rng, 4, 17).to(DEVICE)).latent_dist.mode() for _ in range(batches)]
    flat = torch.cat(means).transpose(0, 1).flatten(1)
    figures = {"latents_mean": flat.mean(1), "latents_std": flat.std(1)}
    return {name: [round(value, 3) for value in values.tolist()] for name, values in figures.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.vae", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--pictures", type=int, default=1500, help="steps on single pictures")
    parser.add_argument("--clips", type=int, default=2000, help="steps on clips, after those")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--statistics", action="store_true", help="train nothing; print the latents' statistics")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.statistics:
        model = placed(filled(build_vae(CONFIG.vae), load_average(options.folder)))
        logger.info(json.dumps(latent_statistics(model, 24, options.seed)))
        return
    train(options.folder, options.pictures, options.clips, options.seed)


if __name__ == "__main__":
    main()
