"""The small model as its users call it: speech through the encoder, a request, options, frames.

Shapes: F frames, H x W pixels.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import weights
from benchmarks.quality.clips import Clip
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.rates import SPEECH_RATE
from training import scenes
from wan import MultiTalkPipeline
from wan.checkpoint import Precision
from wan.checkpoint.lora import Lora
from wan.conditioning.request import Request
from wan.configs import WAN_CONFIGS
from wan.modules.image import ImageEncoder
from wan.sampling.options import SamplingOptions, choose_preset, resolve_options

MODEL = "multitalk-puppet"
WEIGHTS = Path(__file__).parents[2] / "models" / MODEL
"""Where the repository keeps the trained weights."""
SIZE_CLASS = "480"
COLOR_CORRECTION = 0.3
"""What the predictor does unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A video, uint8 F x H x W x 3, and how long it took, speech encoder included."""

    frames: NDArray[np.uint8]
    seconds: float


class Puppet:
    """The networks of one folder of weights."""

    def __init__(self, folder: Path = WEIGHTS, precision: Precision = "bf16", model: str = MODEL) -> None:
        config = WAN_CONFIGS[model]
        self.folder = folder
        self.pipeline = MultiTalkPipeline(config, folder, precision=precision)
        self.speech = Wav2Vec2Model.from_pretrained(folder / config.files.speech, local_files_only=True)
        self.speech.to(self.pipeline.device)  # type: ignore[arg-type]

    def options(self, preset: str | None = "fast", **changes: Any) -> SamplingOptions:
        """A preset's options (turbo's for None) with explicit values in their place."""
        given = {"color_correction_strength": COLOR_CORRECTION, "seed": 0, **changes}
        return resolve_options(self.pipeline.config, size_class=SIZE_CLASS, turbo=True, preset_name=preset, **given)

    def evaluations(self, options: SamplingOptions) -> int:
        """How often a chunk runs the stack of blocks."""
        return sum(step.evaluations for step in self.pipeline.plan(options, self.pipeline.embed_times(options)))

    @torch.inference_mode()
    def take(self, clip: Clip, options: SamplingOptions) -> Taken:
        """Make the clip."""
        start = time.perf_counter()
        parts = list(self.pipeline.stream(self.request(clip), replace(options, max_frames_num=clip.row.frames)))
        frames = np.concatenate([to_pixels(part) for part in parts])
        return Taken(frames=frames, seconds=time.perf_counter() - start)

    def request(self, clip: Clip) -> Request:
        """What a caller would ask for; voices in the row's order, boxes where the row gives them."""
        order = clip.row.order
        boxes = None
        if clip.row.boxes != "default":
            faces = scenes.face_boxes(clip.scene)
            first, second = (faces[face] for face in order)
            boxes = (first, second)
        return Request(
            picture=Image.fromarray(clip.picture()),
            tracks=tuple(self.embed(clip.tracks[face]) for face in order),
            prompt=clip.scene.prompt,
            regions=boxes,
        )

    def embed(self, track_N: NDArray[np.float32]) -> Tensor:
        """Speech states of a 16 kHz track, frames x layers x width."""
        return self.speech.get_embeddings(self.speech.extract_features(track_N, SPEECH_RATE)).cpu()

    @torch.inference_mode()
    def round_trip(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames through the VAE and back: what no transformer could do better. F is 4n + 1."""
        video = torch.from_numpy(frames).permute(3, 0, 1, 2).float().to(self.pipeline.device) / 127.5 - 1
        vae = self.pipeline.models.vae
        return to_pixels(torch.cat(list(vae.decode(vae.encode(video))), dim=1))

    def use_lora_of(self, preset: str | None) -> None:
        """Merge the LoRA that a preset (turbo's for None) was made for, or none."""
        name = choose_preset(self.pipeline.config, turbo=True, name=preset).lora
        path = None if name is None else weights.locate_lora(self.folder, name)
        if name is not None and path is None:
            raise FileNotFoundError(f"{self.folder} has no LoRA {name}, which preset {preset} needs")
        self.use([] if path is None else [Lora(weights=path)])

    def use(self, loras: Sequence[Lora]) -> None:
        """Merge exactly these LoRAs."""
        self.pipeline.use_loras(loras)

    @contextmanager
    def without_picture_tokens(self) -> Iterator[None]:
        """CLIP's tokens are zeros within."""
        pipeline = self.pipeline
        models = pipeline.models
        blind = MultiTalkPipeline.from_models(
            pipeline.config, replace(models, image_encoder=_Blind(models.image_encoder.model))
        )
        self.pipeline = blind
        try:
            yield
        finally:
            self.pipeline = pipeline


class _Blind(ImageEncoder):
    """An image encoder that sees nothing."""

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        return torch.zeros_like(super().__call__(frame_CHW))


def to_pixels(video_CFHW: Tensor) -> NDArray[np.uint8]:
    """[-1, 1] to uint8 F x H x W x 3."""
    pixels = ((video_CFHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
