"""`python -m training.finetune_decoder RUNS`: fine-tune the VAE's decoder with a frozen encoder.

Every chunk decodes and re-encodes the motion frames. The decoder is therefore trained, from latents with small errors
like the transformer's, on reconstruction and on frames that encode to the same latents. The encoder's latents do not
change, so that shards and transformer stay valid.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.finetune_decoder", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument("--steps", type=whole_number(), default=600, help="optimizer steps")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.finetune_decoder", make_parser)

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.components import CONFIG
from training.muon import Muon
from training.training_loop import (
    DEVICE,
    TrainingRun,
    load_ema_weights,
    lr_schedule,
    step_generator,
)
from training.vae import SingleFrames, decode, reconstruction_loss, sample_crops
from wan.modules.vae import build_vae

_LATENT_WEIGHT = 0.3
_NOISE = 0.15
"""Maximum standard deviation of the latent errors, relative to that of the latents."""
_MAX_EARLIER_TRIPS = 3


def decoder_loss(
    model: AutoencoderKLWan, video_BCFHW: Tensor, generator: torch.Generator, earlier_trips: int = 0
) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction error, plus the error of the latents after decoding and encoding.

    The latents have been decoded and encoded `earlier_trips` times already, as at the end of so many chunks; the
    gradient goes through the last trip only, whose target is the original video.
    """
    std = torch.tensor(CONFIG.vae.latents_std, device=DEVICE)[:, None, None, None]
    with SingleFrames():
        with torch.no_grad():
            latent = start = model.encode(video_BCFHW).latent_dist.mode()
            for _ in range(earlier_trips):
                start = model.encode(decode(model, start).clamp(-1, 1)).latent_dist.mode()
        strength = _NOISE * torch.rand(len(latent), 1, 1, 1, 1, generator=generator, device=DEVICE)
        noise = torch.randn(latent.shape, generator=generator, device=DEVICE)
        decoded = decode(model, start + strength * std * noise)
        reencoded = model.encode(decoded).latent_dist.mode()
    loss, metrics = reconstruction_loss(decoded, video_BCFHW)
    latent_error = ((reencoded - latent) / std).square().mean()
    return loss + _LATENT_WEIGHT * latent_error, {**metrics, "same": latent_error.item()}


def train(runs: Path, steps: int, seed: int) -> None:
    """Train or resume until `steps`."""
    model = build_vae(CONFIG.vae)
    model.load_state_dict(load_ema_weights(runs / "vae"))
    model.to(DEVICE)
    for module in (model.encoder, model.quant_conv):
        module.requires_grad_(False)
    adam_names = {"decoder.conv_in.weight", "decoder.conv_out.weight"}
    run = TrainingRun(
        runs / "decoder", model, Muon(model, adam_names.__contains__, muon_lr=0.01, adam_lr=1e-3), decay=0.99
    )

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, 2, step))
        video = sample_crops(rng, 3, int(rng.choice([1, 5, 9]))).to(DEVICE)
        return decoder_loss(model, video, step_generator(seed, step), int(rng.integers(_MAX_EARLIER_TRIPS + 1)))

    run.train(steps, loss_of, lambda step: lr_schedule(step, steps, warm_up=20), log_every=20, save_every=100)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    train(options.runs, options.steps, options.seed)
