"""`python -m training.dataset RUNS DIR`: draw clips and write them as the transformer sees them.

A shard holds clips of one frame size and number of persons:
  video, condition  B x 16 x T x h x w, the encoder's means, not normalised
  handed            B x 16 x 3 x h x w, those of the nine frames that the chunk before handed over
  known             B, frames of the chunk that are known: 1 or 9
  clean             B, first frames that the noise spares (InfiniteTalk's motion frames): 0, 1 or 9
  speech            B x N x (F + 4) x Y x C, the states of the chunk's frames and two on either side
  text              B x text_len x C, rows of zeros after the prompt;  image  B x S x C
  masks             B x 3 x h x w;  mouths  B x h x w, weights of the latent cells
Shards are numbered by seed; several processes may write into one folder.
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from training.clips import MOTION_FRAMES, Clip, Known, draw_clip
from training.components import CONFIG, Encoders, load_encoders
from training.scenes import LARGE, SMALL
from training.training_loop import DEVICE
from training.vae import SingleFrames, decode
from training.voices import Voice, draw_voice
from wan.chunks import Chunk
from wan.conditioning.speech import speech_windows

logger = logging.getLogger(__name__)

FRAMES = CONFIG.frame_num
_SHAPES = {"wide": 0.6, "square": 0.2, "upright": 0.2}
_LARGE = 0.12
"""Share of shards with large frames, whose clips cost more than twice as much."""
_KNOWN: dict[Known, float] = {"picture": 0.45, "motion": 0.35, "source": 0.2}
_TWO = 0.7
_VOICE_SECONDS = 8.0
_BATCH = 8
_TRIPS = {0: 0.4, 1: 0.2, 2: 0.2, 4: 0.2}
"""How often the frames handed over have been decoded and encoded before, as they are in a long video."""


@torch.inference_mode()
def make_shard(encoders: Encoders, seed: int, clips: int, voices: int = 24) -> dict[str, Tensor]:
    """Draw and encode `clips` clips that belong together."""
    rng = np.random.default_rng(seed)
    pool = [draw_voice(rng, _VOICE_SECONDS, "train") for _ in range(voices)]
    persons = 2 if rng.random() < _TWO else 1
    sizes = LARGE if rng.random() < _LARGE else SMALL
    size = sizes[str(rng.choice(list(_SHAPES), p=list(_SHAPES.values())))]
    parts = [_encode_batch(encoders, rng, pool, persons, size) for _ in range(clips // _BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _encode_batch(
    encoders: Encoders, rng: np.random.Generator, pool: list[Voice], persons: int, size: tuple[int, int]
) -> dict[str, Tensor]:
    kinds = [tuple(_KNOWN)[i] for i in rng.choice(len(_KNOWN), size=_BATCH, p=list(_KNOWN.values()))]
    drawn = [draw_clip(rng, pool, persons, size, FRAMES, kind) for kind in kinds]
    trips = rng.choice(list(_TRIPS), size=_BATCH, p=list(_TRIPS.values()))
    videos = torch.stack([_pixels(clip.video) for clip in drawn])
    with SingleFrames():
        handed = _travelled(encoders.vae, videos[:, :, :MOTION_FRAMES], trips)
        shown = [
            handed[i] if kind == "motion" else _pixels(clip.condition)
            for i, (kind, clip) in enumerate(zip(kinds, drawn, strict=True))
        ]
        conditions = torch.stack([_with_zeros(frames) for frames in shown])
        latents = {
            name: encode(encoders.vae, batch)
            for name, batch in (("video", videos), ("condition", conditions), ("handed", handed))
        }
    return {
        **{name: latent.half().cpu() for name, latent in latents.items()},
        "known": torch.tensor([len(clip.condition) for clip in drawn]),
        "clean": torch.tensor([clip.clean for clip in drawn]),
        "speech": torch.stack([_speech(encoders, clip) for clip in drawn]).half().cpu(),
        "text": torch.cat([embed_prompt(encoders, clip.scene.prompt) for clip in drawn]).half().cpu(),
        "image": torch.cat([encoders.image(frames[:, -1]) for frames in shown]).half().cpu(),
        "masks": torch.stack([clip.masks_3hw for clip in drawn]).half(),
        "mouths": torch.stack([clip.mouths_hw for clip in drawn]).half(),
    }


def encode(vae: AutoencoderKLWan, videos_BCFHW: Tensor) -> Tensor:
    """Means of the posterior, not normalised."""
    return vae.encode(videos_BCFHW).latent_dist.mode()


def _travelled(vae: AutoencoderKLWan, videos_BCFHW: Tensor, trips_B: np.ndarray) -> Tensor:
    """Clips after so many trips through the VAE each: what chunk after chunk makes of the frames it hands over."""
    videos = videos_BCFHW.clone()
    for trip in range(trips_B.max()):
        going = torch.from_numpy(trips_B > trip).to(videos.device)
        decoded = decode(vae, encode(vae, videos[going])).clamp(-1, 1)
        videos[going] = ((decoded + 1) * 127.5).round() / 127.5 - 1
    return videos


@torch.no_grad()
def embed_prompt(encoders: Encoders, prompt: str) -> Tensor:
    """States of a prompt, padded with zero rows: 1 x text_len x C."""
    states = encoders.text(prompt)
    return functional.pad(states, (0, 0, 0, CONFIG.transformer.text_len - states.shape[1]))


def _speech(encoders: Encoders, clip: Clip) -> Tensor:
    """States of the chunk's frames and two on either side, N x (F + 4) x Y x C, as the pipeline would window them."""
    tracks = []
    for sound in clip.sounds:
        features = torch.from_numpy((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7))
        tracks.append(encoders.speech.layer_states(features[None].to(DEVICE))[0])
    half = CONFIG.transformer.audio_window // 2
    stop = clip.start + FRAMES
    chunk = Chunk(index=0, start=clip.start, stop=stop, overlap=0, num_new=FRAMES)
    windows = speech_windows(tuple(tracks), chunk, CONFIG.transformer.audio_window)
    return torch.cat((windows[:, 0, :half], windows[:, :, half], windows[:, -1, half + 1 :]), dim=1)


def _pixels(frames_FHWC: np.ndarray) -> Tensor:
    """3 x F x H x W in [-1, 1]."""
    return torch.from_numpy(frames_FHWC).to(DEVICE).permute(3, 0, 1, 2).float() / 127.5 - 1


def _with_zeros(known_CFHW: Tensor) -> Tensor:
    return functional.pad(known_CFHW, (0, 0, 0, 0, 0, FRAMES - known_CFHW.shape[1]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.dataset", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--first", type=int, default=0, help="seed of the first shard")
    parser.add_argument("--shards", type=int, default=80)
    parser.add_argument("--clips", type=int, default=64, help="clips in a shard")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.folder.mkdir(parents=True, exist_ok=True)
    encoders = load_encoders(options.runs)
    for seed in range(options.first, options.first + options.shards):
        path = options.folder / f"{seed:05}.safetensors"
        if path.exists():
            continue
        started = time.perf_counter()
        shard = {name: tensor.contiguous() for name, tensor in make_shard(encoders, seed, options.clips).items()}
        save_file(shard, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
        logger.info("%s %s %.1f s", path.name, tuple(shard["video"].shape), time.perf_counter() - started)


if __name__ == "__main__":
    main()
