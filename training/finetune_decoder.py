"""`python -m training.finetune_decoder RUNS`: train the VAE's decoder on, the encoder as it is.

What a chunk hands over is decoded and encoded again, chunk after chunk. So the decoder is asked, besides for the
picture, for one that the encoder sees as the same latent, from latents with small errors as the transformer makes them.
The latents stay what they were: data and transformer need not be made again.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.components import CONFIG
from training.muon import Muon
from training.training_loop import DEVICE, TrainingRun, descend, load_average, schedule, step_generator
from training.vae import SingleFrames, decode, draw_crops, picture_loss
from wan.modules.vae import build_vae

_SAME_WEIGHT = 0.3
_NOISE = 0.15
"""Deviation, at most, of the errors, in deviations of the latents."""


def loss_of(
    model: AutoencoderKLWan, video_BCFHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The picture's error, and how far the latent is from itself after a trip."""
    std = torch.tensor(CONFIG.vae.latents_std, device=DEVICE)[:, None, None, None]
    with SingleFrames():
        with torch.no_grad():
            latent = model.encode(video_BCFHW).latent_dist.mode()
        strength = _NOISE * torch.rand(len(latent), 1, 1, 1, 1, generator=generator, device=DEVICE)
        noise = torch.randn(latent.shape, generator=generator, device=DEVICE)
        shown = decode(model, latent + strength * std * noise)
        again = model.encode(shown).latent_dist.mode()
    loss, figures = picture_loss(shown, video_BCFHW)
    same = ((again - latent) / std).square().mean()
    return loss + _SAME_WEIGHT * same, {**figures, "same": same.item()}


def train(runs: Path, steps: int, seed: int) -> None:
    """Train, or go on, until `steps`."""
    model = build_vae(CONFIG.vae)
    model.load_state_dict(load_average(runs / "vae"))
    model.to(DEVICE)
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(False)
    apart = {"decoder.conv_in.weight", "decoder.conv_out.weight"}
    run = TrainingRun(
        runs / "decoder", model, Muon(model, apart.__contains__, matrix_peak=0.01, other_peak=1e-3), decay=0.99
    )
    while run.step < steps:
        rng = np.random.default_rng((seed, 2, run.step))
        video = draw_crops(rng, 3, int(rng.choice([1, 5, 9]))).to(DEVICE)
        loss, figures = loss_of(model, video, step_generator(seed, run.step))
        norm = descend(loss, run, schedule(run.step, steps, warm_up=20))
        run.log({"loss": loss.item(), **figures, "gradient": norm}, every=20)
        if run.step % 100 == 0:
            run.save()
    run.save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.finetune_decoder", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.runs, options.steps, options.seed)


if __name__ == "__main__":
    main()
