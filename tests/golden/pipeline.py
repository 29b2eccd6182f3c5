"""Whole generations with small networks: latents of every chunk, the video, and what the network was given."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from tests.golden.file import GoldenFile
from tests.golden.modules import Outputs, load_transformer, load_vae, transformer_config
from wan.checkpoint import Models
from wan.chunks import Chunk
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.text import TextEncoder
from wan.modules.transformer import BlockConstants, MultiTalkTransformer
from wan.modules.vae import VideoVAE
from wan.multitalk import MultiTalkPipeline, Scene

DROPPED_AT_THE_END = 3
PROMPT, NEGATIVE = "prompt", "negative prompt"


class RecordingTransformer(MultiTalkTransformer):
    """Remembers the condition latents and speech windows it is given."""

    def record(self) -> None:
        """Start a fresh record."""
        self.conditions: list[Tensor] = []
        self.windows: list[Tensor] = []

    def patchify(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        if not self.conditions or not torch.equal(self.conditions[-1], condition_BCTHW):
            self.conditions.append(condition_BCTHW)
        return super().patchify(latent_BCTHW, condition_BCTHW)

    def embed_speech(self, windows_BNFWYC: Tensor) -> BlockConstants:
        self.windows.append(windows_BNFWYC[0])
        return super().embed_speech(windows_BNFWYC)


class RecordingVAE(VideoVAE):
    """Remembers the latents it decodes."""

    def decode(self, latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        self.__dict__.setdefault("latents", []).append(latent_CTHW)
        return super().decode(latent_CTHW, rest)


class DrawnText:
    """In place of the text encoder: the states that the metadata says how to draw."""

    def __init__(self, rule: str, text_dim: int) -> None:
        generator = torch.Generator().manual_seed(numbers(rule, r"manual_seed\((\d+)")[0])
        rows = numbers(rule, r"randn\((\d+),")
        self.states = {
            text: torch.randn(count, text_dim, generator=generator)[None]
            for text, count in zip((PROMPT, NEGATIVE), rows, strict=True)
        }

    def __call__(self, prompt: str) -> Tensor:
        return self.states[prompt]


class DrawnImage:
    """In place of CLIP: call k draws its own tokens; remembers the frames it is given."""

    def __init__(self, rule: str) -> None:
        self.shape = [int(n) for n in re.findall(r"randn\((\d+),(\d+),(\d+)", rule)[0]]
        self.seed = numbers(rule, r"manual_seed\((\d+)")[0]
        self.frames: list[Tensor] = []

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        self.frames.append(frame_CHW)
        generator = torch.Generator().manual_seed(self.seed + len(self.frames) - 1)
        return torch.randn(*self.shape, generator=generator)


class RecordingPipeline(MultiTalkPipeline):
    """Remembers the masks of the scene."""

    masks: Tensor

    def make_chunk(self, request: Any, options: Any, scene: Scene, chunk: Chunk, *rest: Any) -> Tensor:
        self.masks = scene.masks_3HW
        return super().make_chunk(request, options, scene, chunk, *rest)


def pipeline(golden: GoldenFile) -> Outputs:
    """Every output of a `pipe_*` file, from `generate` called as a user calls it."""
    options = golden.config
    text = DrawnText(options["text_rule"], transformer_config(golden).text_dim)
    image = DrawnImage(options["clip_rule"])
    transformer = cast(RecordingTransformer, load_transformer(golden, RecordingTransformer))
    transformer.record()
    vae = RecordingVAE(load_vae(golden.sibling("vae")).model)
    models = Models(
        transformer=transformer,
        vae=vae,
        text_encoder=cast(TextEncoder, text),
        image_encoder=cast(ImageEncoder, image),
    )
    generator = cast(RecordingPipeline, RecordingPipeline.from_models(model_config(golden), models))
    video = generator.generate(**arguments(golden))

    outputs = {"video_f16": common_part(video, golden.tensors["video_f16"].shape[1])}
    speech = [windows for windows in transformer.windows if windows.any()]
    for k, latent in enumerate(cast(Any, vae).latents):
        outputs[f"latent_{k}"] = latent
        outputs[f"y_{k}"] = transformer.conditions[k]
        outputs[f"ref_target_masks_{k}"] = generator.masks
        outputs[f"clip_input_{k}"] = image.frames[k][:, None]
        outputs[f"audio_{k}"] = speech[k][:, :3].bfloat16()
    return outputs


def common_part(video_CFHW: Tensor, frames: int) -> Tensor:
    """Our video without the up to three frames that the reference drops at the end; any other length stays."""
    return video_CFHW[:, :frames] if 0 <= video_CFHW.shape[1] - frames <= DROPPED_AT_THE_END else video_CFHW


def arguments(golden: GoldenFile) -> dict[str, Any]:
    """`generate`'s arguments from the metadata of a whole generation."""
    options, extra = golden.config, golden.config["extra_args"]
    return {
        "input_data": {
            "prompt": PROMPT,
            "cond_image": Image.open(golden.path.with_name(options.get("picture", "cond.png"))),
            "cond_audio": speech_tracks(options),
            "bbox": options.get("bbox"),
        },
        "n_prompt": NEGATIVE,
        "size_buckget": options["size_buckget"],
        "color_correction_strength": options.get("color_correction_strength", 0.0),
        "teacache_thresh": extra["teacache_thresh"] if extra["use_teacache"] else 0.0,
        **{
            name: options[name]
            for name in (
                "motion_frame",
                "frame_num",
                "shift",
                "sampling_steps",
                "text_guide_scale",
                "audio_guide_scale",
                "seed",
                "max_frames_num",
            )
        },
        **{name: extra[name] for name in ("use_apg", "apg_momentum", "apg_norm_threshold") if name in extra},
    }


def model_config(golden: GoldenFile) -> ModelConfig:
    """The published model's rules on the sizes and buckets of the file."""
    size_class = golden.config["size_buckget"].rpartition("-")[2]
    buckets = {ratio: (size[0], size[1]) for ratio, (size, _) in golden.config["buckets"].items()}
    return replace(WAN_CONFIGS["multitalk-14B"], transformer=transformer_config(golden), buckets={size_class: buckets})


def speech_tracks(options: dict[str, Any]) -> dict[str, Tensor]:
    """Tracks drawn as the metadata says, one per person."""
    rule = options["audio_embedding_rule"]
    layers, width = (int(n) for n in re.findall(r"randn\(frames,(\d+),(\d+)", rule)[0])
    seed = numbers(rule, r"manual_seed\((\d+)")[0]
    persons = options["humans"]
    frames = options["frames"] if isinstance(options["frames"], list) else [options["frames"]] * persons
    return {
        f"person{i + 1}": torch.randn(frames[i], layers, width, generator=torch.Generator().manual_seed(seed + i))
        for i in range(persons)
    }


def numbers(text: str, pattern: str) -> list[int]:
    """All integers that `pattern`'s group finds in a rule."""
    return [int(match) for match in re.findall(pattern, text)]
