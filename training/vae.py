"""`python -m training.vae DIR`: train the puppet model's video VAE on crops of rendered clips.

The networks are convolutional, so that training on crops of 64 x 64 pixels and up to 13 frames suffices for any size.
Shapes: B batch, C channels, F frames, H x W pixels.
"""

from argparse import Namespace
from collections.abc import Sequence

from src.command_line import Parser, launch, log_messages, output_folder, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.vae", __doc__)
    parser.add_argument("folder", type=output_folder, metavar="DIR", help="folder of the run, which is resumed")
    parser.add_argument("--images", "--pictures", type=whole_number(0), default=1500, help="steps on images")
    parser.add_argument("--clips", type=whole_number(0), default=2000, help="steps on clips, after those on images")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    parser.add_argument("--statistics", action="store_true", help="only print mean and deviation of the latents")
    parser.checks.append(require_steps)
    return parser


def require_steps(options: Namespace) -> None:
    """ValueError if there is nothing to train."""
    if options.images + options.clips == 0:
        raise ValueError("--images and --clips are both 0; one of them must be more")


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.vae", make_parser)

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

from training.components import CONFIG, to_device, with_weights
from training.editions import EDITION
from training.muon import Muon
from training.scenes import render, sample_scene
from training.training_loop import (
    DEVICE,
    TrainingRun,
    load_ema_weights,
    lr_schedule,
    step_generator,
)
from wan.modules.vae import build_vae

logger = logging.getLogger(__name__)

_CROP = 64
_KL_WEIGHT = 1e-4
_STATISTICS_BATCHES = 24
_DARK_WEIGHT = 2.0
"""Additional weight of pixels as dark as an open mouth."""


def sample_crops(rng: np.random.Generator, batch: int, frames: int) -> Tensor:
    """Crops of random scenes with random mouth motion: B x 3 x F x 64 x 64 in [-1, 1]."""
    return torch.stack([_sample_crop(rng, frames) for _ in range(batch)])


def _sample_crop(rng: np.random.Generator, frames: int) -> Tensor:
    persons = int(rng.integers(1, 3))
    size = list(EDITION.sizes.values())[rng.integers(len(EDITION.sizes))]
    scene = sample_scene(rng, persons, size, frames, "train", EDITION.drawing)
    openings = [np.clip(_smooth_noise(rng, frames) * 0.8 + 0.3, 0, 1) for _ in range(persons)]
    shapes = [np.clip(_smooth_noise(rng, frames), -1, 1) for _ in range(persons)]
    clip = render(scene, openings, shapes, start=int(rng.integers(0, 8)))
    top, left = (int(rng.integers(0, side - _CROP + 1)) for side in size)
    pixels = clip[:, top : top + _CROP, left : left + _CROP].astype(np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(3, 0, 1, 2)


def _smooth_noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Noise at the rate of syllables, of about unit variance."""
    return np.convolve(rng.standard_normal(frames + 4), (0.3, 0.5, 0.6, 0.5, 0.3), mode="valid")


class SingleFrames:
    """Context manager that runs causal convolutions of a single frame without cache as 2D convolutions.

    The padding in time is zero, so that only the last temporal tap contributes: same result, a third of the work.
    """

    def __enter__(self) -> None:
        self.forward = forward = WanCausalConv3d.forward

        def forward_2d(conv: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
            if cache_x is not None or x.shape[2] > 1 or conv.kernel_size[0] != 3:
                return forward(conv, x, cache_x)
            flat = F.pad(x[:, :, 0], conv._padding[:4])
            return F.conv2d(flat, conv.weight[:, :, -1], conv.bias)[:, :, None]

        WanCausalConv3d.forward = forward_2d

    def __exit__(self, *_: object) -> None:
        WanCausalConv3d.forward = self.forward


def init_framewise(model: AutoencoderKLWan) -> None:
    """Initialize the network to process each frame separately, so that training on images carries over to clips.

    Temporal taps into the past are zero; time is downsampled by dropping frames and upsampled by repeating them.
    """
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
    """Decode without the library's final clamp, which has no gradient outside [-1, 1]."""
    features: dict[int, Any] = defaultdict(lambda: None)
    z = model.post_quant_conv(latent_BCTHW)
    slices = [
        model.decoder(z[:, :, i : i + 1], feat_cache=features, feat_idx=[0], first_chunk=i == 0)
        for i in range(z.shape[2])
    ]
    return torch.cat(slices, dim=2)


def vae_loss(
    model: AutoencoderKLWan, video_BCFHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction error plus KL divergence."""
    with SingleFrames():
        posterior = model.encode(video_BCFHW).latent_dist
        decoded = decode(model, posterior.sample(generator))
    reconstruction, metrics = reconstruction_loss(decoded, video_BCFHW)
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return reconstruction + _KL_WEIGHT * kl, {**metrics, "kl": kl.item()}


def reconstruction_loss(decoded_BCFHW: Tensor, video_BCFHW: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Error of pixels and of their differences, with a higher weight of dark pixels (mouths, eyes); logs the PSNR."""
    error = decoded_BCFHW - video_BCFHW
    weight = 1 + _DARK_WEIGHT * torch.sigmoid(-10 * (video_BCFHW.mean(1, keepdim=True) + 0.65))
    pixels = ((error.abs() + 2 * error.square()) * weight).mean()
    edges = torch.stack([error.diff(dim=axis).abs().mean() for axis in (3, 4)]).sum()
    if error.shape[2] > 1:
        edges = edges + 2 * (error.diff(dim=2).abs() * weight[:, :, 1:]).mean()
    mse = error.detach().square().mean() / 4
    return pixels + 0.5 * edges, {"psnr": (-10 * mse.log10()).item()}


def train(folder: Path, image_steps: int, clip_steps: int, seed: int) -> None:
    """Train or resume: steps on batches of 10 images, then steps on batches of 3 clips; then normalize the latents."""
    torch.manual_seed(seed)
    model = build_vae(CONFIG.vae)
    init_framewise(model.to(DEVICE))
    run = TrainingRun(folder, model, Muon(model, use_adam=lambda name: "conv_in" in name or "conv_out" in name))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        on_images = step < image_steps
        video = sample_crops(rng, 10, 1) if on_images else sample_crops(rng, 3, int(rng.choice([5, 9, 9, 13])))
        return vae_loss(model, video.to(DEVICE), step_generator(seed, step))

    def lr_factor(step: int) -> float:
        on_images = step < image_steps
        return lr_schedule(step, image_steps) if on_images else lr_schedule(step - image_steps, clip_steps)

    run.train(image_steps + clip_steps, loss_of, lr_factor, log_every=20, save_every=100)
    model.load_state_dict(run.average.state)
    normalize_latents(run.average.state, latent_statistics(model, _STATISTICS_BATCHES, seed))
    model.load_state_dict(run.average.state)
    run.save()


@torch.no_grad()
def normalize_latents(state: dict[str, Tensor], statistics: dict[str, list[float]]) -> None:
    """Change a VAE's state so that its latents, which have `statistics`, have those of the configuration.

    A scale and an offset of the latents are folded into the layers before and after them; the video stays the same.
    """
    mean, std = (state["quant_conv.bias"].new_tensor(statistics[name]) for name in ("latents_mean", "latents_std"))
    goal_mean, goal_std = (mean.new_tensor(values) for values in (CONFIG.vae.latents_mean, CONFIG.vae.latents_std))
    scale = goal_std / std
    offset = goal_mean - scale * mean
    z = len(mean)
    before_weight, before_bias = state["quant_conv.weight"], state["quant_conv.bias"]
    before_weight[:z] *= scale[:, None, None, None, None]
    before_bias[:z] = scale * before_bias[:z] + offset
    before_bias[z:] += 2 * scale.log()
    after_weight, after_bias = state["post_quant_conv.weight"], state["post_quant_conv.bias"]
    after_weight /= scale[None, :, None, None, None]
    after_bias -= after_weight[:, :, 0, 0, 0] @ offset


@torch.inference_mode()
def latent_statistics(model: AutoencoderKLWan, batches: int, seed: int) -> dict[str, list[float]]:
    """Mean and standard deviation of every latent channel, for `VideoVAEConfig`."""
    rng = np.random.default_rng((seed, 1))
    means = [model.encode(sample_crops(rng, 4, 17).to(DEVICE)).latent_dist.mode() for _ in range(batches)]
    flat = torch.cat(means).transpose(0, 1).flatten(1)
    statistics = {"latents_mean": flat.mean(1), "latents_std": flat.std(1)}
    return {name: [round(value, 3) for value in values.tolist()] for name, values in statistics.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    if options.statistics:
        model = to_device(with_weights(build_vae(CONFIG.vae), load_ema_weights(options.folder)))
        logger.info(json.dumps(latent_statistics(model, _STATISTICS_BATCHES, options.seed)))
        return
    train(options.folder, options.images, options.clips, options.seed)
