"""`python -m training.rollouts RUNS DIR`: write shards of chunks that start from frames which the model generated.

A long video hands the model its own faults, which the renderer's frames do not have. The model of RUNS, with its LoRA
if there is one, therefore generates videos of several chunks as the preset `fast` does; the target of each later chunk
is what the renderer draws there. The format is that of `training.dataset`.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, output_folder, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.rollouts", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument("folder", type=output_folder, metavar="ROLLOUTS", help="folder of the shards")
    parser.add_argument("--first", type=whole_number(0), default=0, help="seed of the first shard")
    parser.add_argument("--shards", type=whole_number(), default=40, help="number of shards")
    parser.add_argument("--videos", type=whole_number(), default=8, help="videos of 2 to 8 chunks in a shard")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.rollouts", make_parser)

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.clips import MOTION_FRAMES, Clip, sample_long_clip
from training.components import CONFIG, Encoders, load_encoders, with_weights
from training.dataset import (
    ASPECT_SHARES,
    FRAMES,
    TWO_PERSONS_SHARE,
    VOICE_SECONDS,
    embed_speech,
    encode_clips,
    to_tensor,
    write_shard,
)
from training.distil import lora_state_dict
from training.editions import EDITION
from training.training_loop import DEVICE, load_ema_weights
from training.voices import sample_voice
from wan import MultiTalkPipeline
from wan.checkpoint import Models
from wan.checkpoint.lora import Lora
from wan.conditioning.image import Crop
from wan.conditioning.layout import ImageLayout
from wan.conditioning.request import Request
from wan.configs.schema import Mode
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE
from wan.sampling.options import resolve_options

_MODE_SHARES: dict[Mode, float] = {"multitalk": 0.75, "infinitetalk": 0.25}
"""Shares of the two kinds of conditioning."""
_MAX_CHUNKS = 8
_COLOR_CORRECTION = 0.3
"""Default of the predictor."""
NEW_FRAMES = FRAMES - MOTION_FRAMES


def load_pipelines(runs: Path, encoders: Encoders) -> dict[Mode, MultiTalkPipeline]:
    """The model of a folder of runs under both kinds of conditioning."""
    transformer = with_weights(MultiTalkTransformer(CONFIG.transformer), load_ema_weights(runs / "transformer"))
    models = Models(
        transformer=transformer.to(DEVICE),
        vae=VideoVAE(encoders.vae),
        text_encoder=encoders.text,
        image_encoder=encoders.image,
    )
    pipelines = {mode: MultiTalkPipeline.from_models(replace(CONFIG, mode=mode), models) for mode in _MODE_SHARES}
    if (runs / "distilled" / "state.pt").exists():
        state = lora_state_dict(load_ema_weights(runs / "distilled"))
        pipelines[CONFIG.mode].use_loras([Lora(weights=state)])
    return pipelines


@torch.inference_mode()
def generate(pipeline: MultiTalkPipeline, speech: tuple[Tensor, ...], clip: Clip, seed: int) -> np.ndarray:
    """The model's own video of a clip, uint8 F x H x W x 3, from the clip's first frame."""
    size = clip.scene.size
    layout = ImageLayout(crop=Crop(scaled=size, size=size, top=0, left=0), masks=clip.masks_3hw.float())
    image = Image.fromarray(clip.condition[0])
    request = Request(image=image, speech=speech, prompt=clip.scene.prompt, layout=layout)
    options = resolve_options(
        pipeline.config,
        size_class="480",
        turbo=True,
        preset_name="fast",
        seed=seed,
        max_frames_num=len(clip.video),
        color_correction_strength=_COLOR_CORRECTION,
    )
    video_CFHW = torch.cat([part.cpu() for part in pipeline.stream(request, options)], dim=1)
    return ((video_CFHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


def split_chunks(clip: Clip, own_FHWC: np.ndarray, *, infinitetalk: bool) -> list[tuple[Clip, np.ndarray]]:
    """The chunks after the first one: clips whose video is the renderer's, and their motion frames, which are not."""
    chunks = []
    for start in range(NEW_FRAMES, len(own_FHWC) - FRAMES + 1, NEW_FRAMES):
        handed = own_FHWC[start : start + MOTION_FRAMES]
        chunk = replace(clip, video=clip.video[start : start + FRAMES], start=start)
        if infinitetalk:
            chunks.append((replace(chunk, num_clean=MOTION_FRAMES), handed))
        else:
            chunks.append((replace(chunk, condition=handed), handed))
    return chunks


@torch.inference_mode()
def make_shard(
    encoders: Encoders, pipelines: dict[Mode, MultiTalkPipeline], seed: int, num_videos: int
) -> dict[str, Tensor]:
    """The later chunks of `num_videos` videos of one frame size and number of persons."""
    rng = np.random.default_rng((seed, 3))
    persons = 2 if rng.random() < TWO_PERSONS_SHARE else 1
    size = EDITION.sizes[str(rng.choice(list(ASPECT_SHARES), p=list(ASPECT_SHARES.values())))]
    batches = []
    for _ in range(num_videos):
        frames = FRAMES + NEW_FRAMES * int(rng.integers(1, _MAX_CHUNKS))
        voices = [sample_voice(rng, VOICE_SECONDS, "train") for _ in range(persons)]
        clip = sample_long_clip(rng, voices, persons, size, frames)
        mode = tuple(_MODE_SHARES)[rng.choice(len(_MODE_SHARES), p=list(_MODE_SHARES.values()))]
        speech = tuple(embed_speech(encoders, waveform) for waveform in clip.waveforms)
        own = generate(pipelines[mode], speech, clip, int(rng.integers(2**31)))
        chunks = split_chunks(clip, own, infinitetalk=mode == "infinitetalk")
        handed = torch.stack([to_tensor(each) for _, each in chunks])
        batches.append(encode_clips(encoders, [chunk for chunk, _ in chunks], handed))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    options.folder.mkdir(parents=True, exist_ok=True)
    encoders = load_encoders(options.runs)
    pipelines = load_pipelines(options.runs, encoders)
    for seed in range(options.first, options.first + options.shards):
        write_shard(options.folder, seed, partial(make_shard, encoders, pipelines, seed, options.videos))
