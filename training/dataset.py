"""`python -m training.dataset RUNS DIR`: render clips, encode them, and write shards for training the transformer.

A shard has clips of one frame size and number of persons:
  video, condition  B x 16 x T x h x w, unnormalized latents (modes of the posterior)
  handed            B x 16 x 3 x h x w, latents of the nine motion frames after several VAE round trips
  known             B, number of conditioning frames: 1 or 9
  clean             B, number of leading frames without noise (InfiniteTalk's motion frames): 0, 1 or 9
  speech            B x N x (F + 4) x Y x C, embeddings of the chunk's frames and of two on either side
  text              B x text_len x C, zero-padded;  image  B x S x C
  masks             B x 3 x h x w;  mouths  B x h x w, weights of the latent cells
Shards are numbered by seed; several processes may write to one folder.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, output_folder, whole_number

BATCH = 8
"""Clips encoded at once."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.dataset", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument("folder", type=output_folder, metavar="DATA", help="folder of the shards")
    parser.add_argument("--first", type=whole_number(0), default=0, help="seed of the first shard")
    parser.add_argument("--shards", type=whole_number(), default=80, help="number of shards")
    parser.add_argument(
        "--clips", type=whole_number(multiple=BATCH), default=64, help=f"clips in a shard, a multiple of {BATCH}"
    )
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.dataset", make_parser)

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from training.clips import MOTION_FRAMES, Clip, ConditionKind, sample_clip
from training.components import CONFIG, Encoders, load_encoders
from training.editions import EDITION
from training.training_loop import DEVICE
from training.vae import SingleFrames, decode
from training.voices import Voice, Waveform, sample_voice
from wan.chunks import Chunk
from wan.conditioning.speech import speech_windows

logger = logging.getLogger(__name__)

FRAMES = CONFIG.frame_num
ASPECT_SHARES = {"wide": 0.6, "square": 0.2, "upright": 0.2}
_LARGE_SHARE = 0.12
"""Share of shards of the other size class; large frames take more than twice the time."""
_CONDITION_SHARES: dict[ConditionKind, float] = {"image": 0.45, "motion": 0.35, "infinitetalk": 0.2}
TWO_PERSONS_SHARE = 0.7
VOICE_SECONDS = 8.0
_ROUNDTRIP_SHARES = {0: 0.4, 1: 0.2, 2: 0.2, 4: 0.2}
"""Shares of the numbers of VAE round trips of the motion frames, which a long video repeats with every chunk."""


@torch.inference_mode()
def make_shard(encoders: Encoders, seed: int, num_clips: int, num_voices: int = 24) -> dict[str, Tensor]:
    """Sample and encode `num_clips` clips, a multiple of `BATCH`, of one frame size and number of persons."""
    rng = np.random.default_rng(seed)
    voices = [sample_voice(rng, VOICE_SECONDS, "train") for _ in range(num_voices)]
    persons = 2 if rng.random() < TWO_PERSONS_SHARE else 1
    sizes = EDITION.large_sizes if rng.random() < _LARGE_SHARE else EDITION.sizes
    size = sizes[str(rng.choice(list(ASPECT_SHARES), p=list(ASPECT_SHARES.values())))]
    batches = [_encode_batch(encoders, rng, voices, persons, size) for _ in range(num_clips // BATCH)]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _encode_batch(
    encoders: Encoders, rng: np.random.Generator, voices: list[Voice], persons: int, size: tuple[int, int]
) -> dict[str, Tensor]:
    kinds = [
        tuple(_CONDITION_SHARES)[i]
        for i in rng.choice(len(_CONDITION_SHARES), size=BATCH, p=list(_CONDITION_SHARES.values()))
    ]
    clips = [sample_clip(rng, voices, persons, size, FRAMES, kind) for kind in kinds]
    num_roundtrips = rng.choice(list(_ROUNDTRIP_SHARES), size=BATCH, p=list(_ROUNDTRIP_SHARES.values()))
    motion = torch.stack([to_tensor(clip.video[:MOTION_FRAMES]) for clip in clips])
    with SingleFrames():
        handed = _roundtrip(encoders.vae, motion, num_roundtrips)
    return encode_clips(encoders, clips, handed)


def encode_clips(encoders: Encoders, clips: list[Clip], handed_BCFHW: Tensor) -> dict[str, Tensor]:
    """A shard of clips whose motion frames are `handed_BCFHW`, those of the previous chunk's end."""
    videos = torch.stack([to_tensor(clip.video) for clip in clips])
    condition_frames = [
        handed if len(clip.condition) == MOTION_FRAMES else to_tensor(clip.condition)
        for clip, handed in zip(clips, handed_BCFHW, strict=True)
    ]
    with SingleFrames():
        conditions = torch.stack([_pad_with_zeros(frames) for frames in condition_frames])
        latents = {
            name: encode_videos(encoders.vae, batch)
            for name, batch in (("video", videos), ("condition", conditions), ("handed", handed_BCFHW))
        }
    return {
        **{name: latent.half().cpu() for name, latent in latents.items()},
        "known": torch.tensor([len(clip.condition) for clip in clips]),
        "clean": torch.tensor([clip.num_clean for clip in clips]),
        "speech": torch.stack([_speech(encoders, clip) for clip in clips]).half().cpu(),
        "text": torch.cat([embed_prompt(encoders, clip.scene.prompt) for clip in clips]).half().cpu(),
        "image": torch.cat([encoders.image(frames[:, -1]) for frames in condition_frames]).half().cpu(),
        "masks": torch.stack([clip.masks_3hw for clip in clips]).half(),
        "mouths": torch.stack([clip.mouths_hw for clip in clips]).half(),
    }


def encode_videos(vae: AutoencoderKLWan, videos_BCFHW: Tensor) -> Tensor:
    """Modes of the posterior, not normalized."""
    return vae.encode(videos_BCFHW).latent_dist.mode()


def _roundtrip(vae: AutoencoderKLWan, videos_BCFHW: Tensor, num_roundtrips_B: np.ndarray) -> Tensor:
    """Decode and encode each clip so many times, as a long video does with its motion frames."""
    videos = videos_BCFHW.clone()
    for trip in range(num_roundtrips_B.max()):
        selected = torch.from_numpy(num_roundtrips_B > trip).to(videos.device)
        decoded = decode(vae, encode_videos(vae, videos[selected])).clamp(-1, 1)
        videos[selected] = ((decoded + 1) * 127.5).round() / 127.5 - 1
    return videos


@torch.no_grad()
def embed_prompt(encoders: Encoders, prompt: str) -> Tensor:
    """Text encoder states of a prompt, zero-padded: 1 x text_len x C."""
    states = encoders.text(prompt)
    return functional.pad(states, (0, 0, 0, CONFIG.transformer.text_len - states.shape[1]))


def embed_speech(encoders: Encoders, waveform_N: Waveform) -> Tensor:
    """Speech embeddings of a waveform, F x Y x C, as in the pipeline."""
    features = torch.from_numpy((waveform_N - waveform_N.mean()) / np.sqrt(waveform_N.var() + 1e-7))
    return encoders.speech.layer_states(features[None].to(DEVICE))[0]


def _speech(encoders: Encoders, clip: Clip) -> Tensor:
    """Speech embeddings of the chunk's frames and of two on either side, N x (F + 4) x Y x C, as in the pipeline."""
    embeddings = tuple(embed_speech(encoders, waveform) for waveform in clip.waveforms)
    half = CONFIG.transformer.audio_window // 2
    stop = clip.start + FRAMES
    chunk = Chunk(index=0, start=clip.start, stop=stop, overlap=0, num_new=FRAMES)
    windows = speech_windows(embeddings, chunk, CONFIG.transformer.audio_window)
    return torch.cat((windows[:, 0, :half], windows[:, :, half], windows[:, -1, half + 1 :]), dim=1)


def to_tensor(frames_FHWC: np.ndarray) -> Tensor:
    """3 x F x H x W in [-1, 1]."""
    return torch.from_numpy(frames_FHWC).to(DEVICE).permute(3, 0, 1, 2).float() / 127.5 - 1


def _pad_with_zeros(frames_CFHW: Tensor) -> Tensor:
    return functional.pad(frames_CFHW, (0, 0, 0, 0, 0, FRAMES - frames_CFHW.shape[1]))


def write_shard(folder: Path, seed: int, make: Callable[[], dict[str, Tensor]]) -> None:
    """Write the shard of a seed, unless there is one."""
    path = folder / f"{seed:05}.safetensors"
    if path.exists():
        logger.info("%s exists", path.name)
        return
    started = time.perf_counter()
    shard = {name: tensor.contiguous() for name, tensor in make().items()}
    save_file(shard, path.with_suffix(".partial"))
    path.with_suffix(".partial").rename(path)
    logger.info("%s %s %.1f s", path.name, tuple(shard["video"].shape), time.perf_counter() - started)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    options.folder.mkdir(parents=True, exist_ok=True)
    encoders = load_encoders(options.runs)
    for seed in range(options.first, options.first + options.shards):
        write_shard(options.folder, seed, partial(make_shard, encoders, seed, options.clips))
