"""Whole generations with small networks: the latents and conditions of every chunk, and the video."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.golden.file import GoldenFile
from tests.golden.modules import Outputs, load_transformer, load_vae, transformer_config
from wan.checkpoint import Models
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.text import TextEncoder
from wan.modules.transformer import KVCache, MultiTalkTransformer
from wan.modules.vae import VideoVAE
from wan.multitalk import Clip, MultiTalkPipeline

PROMPT, NEGATIVE = "prompt", "negative prompt"
VIDEO = "video_f16"


class RecordingTransformer(MultiTalkTransformer):
    """Records the last condition latent, and the speech windows."""

    condition: Tensor
    windows: list[Tensor]

    def patchify(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        self.__dict__["condition"] = condition_BCTHW
        return super().patchify(latent_BCTHW, condition_BCTHW)

    def embed_speech(self, windows_BNFWYC: Tensor) -> KVCache:
        self.__dict__.setdefault("windows", []).append(windows_BNFWYC[0])
        return super().embed_speech(windows_BNFWYC)


class RecordingVAE(VideoVAE):
    """Records the latents that it decodes."""

    def decode(self, latent_CTHW: Tensor, offload_device: torch.device | None = None) -> Iterator[Tensor]:
        self.__dict__.setdefault("latents", []).append(latent_CTHW)
        return super().decode(latent_CTHW, offload_device)


class RandomTextEncoder:
    """Text encoder with the random states that a rule of the metadata describes."""

    def __init__(self, rule: str, text_dim: int) -> None:
        generator = torch.Generator().manual_seed(numbers(rule, r"manual_seed\((\d+)")[0])
        rows = numbers(rule, r"randn\((\d+),")
        self.states = {
            text: torch.randn(count, text_dim, generator=generator)[None]
            for text, count in zip((PROMPT, NEGATIVE), rows, strict=True)
        }

    def __call__(self, prompt: str) -> Tensor:
        return self.states[prompt]


class RandomImageEncoder:
    """CLIP encoder whose call k returns random tokens of its own; records the frames."""

    def __init__(self, rule: str) -> None:
        self.shape = [int(n) for n in re.findall(r"randn\((\d+),(\d+),(\d+)", rule)[0]]
        self.seed = numbers(rule, r"manual_seed\((\d+)")[0]
        self.frames: list[Tensor] = []

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        self.frames.append(frame_CHW)
        generator = torch.Generator().manual_seed(self.seed + len(self.frames) - 1)
        return torch.randn(*self.shape, generator=generator)


class RecordingPipeline(MultiTalkPipeline):
    """Records the masks of the clip, and the condition latent of every chunk."""

    masks: Tensor
    conditions: list[Tensor]

    def denoise_chunk(self, clip: Clip, *args: Any) -> Tensor:
        latent = super().denoise_chunk(clip, *args)
        self.masks = clip.masks_3HW
        self.conditions = [*getattr(self, "conditions", []), cast(Any, self.models.transformer).condition]
        return latent


class SyntheticVideo:
    """A source video whose frame k follows the formula of the metadata; the last frame repeats."""

    cuts = ()

    def __init__(self, formula: str) -> None:
        self.last_index = numbers(formula, r"k=min\(i,(\d+)\)")[0]
        self.size = [int(n) for n in re.findall(r"mgrid\[0:(\d+),0:(\d+)\]", formula)[0]]

    def frame_at(self, index: int) -> Image.Image:
        rows, columns = np.mgrid[0 : self.size[0], 0 : self.size[1]]
        k = min(index, self.last_index)
        waves = [np.sin((columns + 4 * k) / 17 + c) * np.cos((rows + 2 * k) / (11 + c)) for c in range(3)]
        pixels = [np.clip(127 + 120 * wave, 0, 255).astype(np.uint8) for wave in waves]
        return Image.fromarray(np.stack(pixels, axis=-1))


def pipeline(golden: GoldenFile) -> Outputs:
    """Every output of a `pipe_*` or `infinite_*` file, from `MultiTalkPipeline.generate`."""
    options = golden.config
    text_encoder = RandomTextEncoder(options["text_rule"], transformer_config(golden).text_dim)
    image_encoder = RandomImageEncoder(options["clip_rule"])
    transformer = cast(RecordingTransformer, load_transformer(golden, RecordingTransformer))
    vae = RecordingVAE(load_vae(golden.sibling("vae")).model)
    models = Models(
        transformer=transformer,
        vae=vae,
        text_encoder=cast(TextEncoder, text_encoder),
        image_encoder=cast(ImageEncoder, image_encoder),
    )
    recording = cast(RecordingPipeline, RecordingPipeline.from_models(model_config(golden), models))
    video = recording.generate(**arguments(golden))

    outputs = {VIDEO: video}
    speech = [windows for windows in transformer.windows if windows.any()]
    for k, latent in enumerate(cast(Any, vae).latents):
        outputs[f"latent_{k}"] = latent
        outputs[f"y_{k}"] = recording.conditions[k]
        outputs[f"ref_target_masks_{k}"] = recording.masks
        outputs[f"clip_input_{k}"] = image_encoder.frames[k][:, None]
        outputs[f"audio_{k}"] = speech[k][:, :3].bfloat16()
    return outputs


def arguments(golden: GoldenFile) -> dict[str, Any]:
    """`generate`'s arguments from the metadata of a whole generation."""
    options, extra = golden.config, golden.config["extra_args"]
    return {
        "input_data": {
            "prompt": PROMPT,
            "cond_image": image_or_video(golden),
            "cond_audio": random_speech(options),
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


def image_or_video(golden: GoldenFile) -> Image.Image | SyntheticVideo:
    """The image file, or the video of a formula."""
    source = golden.config.get("source", golden.config.get("picture", "cond.png"))
    return SyntheticVideo(source) if "mgrid" in source else Image.open(golden.path.with_name(source))


def model_config(golden: GoldenFile) -> ModelConfig:
    """The published model's rules on the sizes and buckets of the file."""
    family, _, size_class = golden.config["size_buckget"].rpartition("-")
    model = "infinitetalk-14B-multi" if family == "infinitetalk" else "multitalk-14B"
    buckets = {ratio: (size[0], size[1]) for ratio, (size, _) in golden.config["buckets"].items()}
    return replace(WAN_CONFIGS[model], transformer=transformer_config(golden), buckets={size_class: buckets})


def random_speech(options: dict[str, Any]) -> dict[str, Tensor]:
    """Speech embeddings of each person, drawn by the rule of the metadata."""
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
    """All integers that the group of `pattern` matches in a rule."""
    return [int(match) for match in re.findall(pattern, text)]
