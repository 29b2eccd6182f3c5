"""The built-in model for the quality benchmarks: a clip's speech and image in, video frames out.

Shapes: F frames, H x W pixels, N samples.
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
from benchmarks.report.defaults import COLOR_CORRECTION, MODEL, WEIGHTS
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.rates import SPEECH_RATE
from training import scenes
from training.editions import EDITION
from wan import MultiTalkPipeline
from wan.checkpoint import Precision
from wan.checkpoint.lora import Lora
from wan.conditioning.request import Request
from wan.modules.image import ImageEncoder
from wan.sampling.options import SamplingOptions, choose_preset, resolve_options

SIZE_CLASS = "480"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedClip:
    """A video, uint8 F x H x W x 3, and the seconds it took, including the speech encoder."""

    frames: NDArray[np.uint8]
    seconds: float


class Puppet:
    """A pipeline and speech encoder loaded from one folder of weights."""

    def __init__(self, folder: Path = WEIGHTS, precision: Precision = "bf16", model: str = MODEL) -> None:
        config = EDITION.configure(model)
        self.folder = folder
        self.pipeline = MultiTalkPipeline(config, folder, precision=precision)
        self.speech = Wav2Vec2Model.from_pretrained(folder / config.files.speech, local_files_only=True)
        self.speech.to(self.pipeline.device)  # type: ignore[arg-type]

    def options(self, preset: str | None = "fast", **changes: Any) -> SamplingOptions:
        """Sampling options of a preset (None: turbo), overridden by explicit values."""
        values = {"color_correction_strength": COLOR_CORRECTION, "seed": 0, **changes}
        return resolve_options(self.pipeline.config, size_class=SIZE_CLASS, turbo=True, preset_name=preset, **values)

    def evaluations(self, options: SamplingOptions) -> int:
        """Number of evaluations of the transformer blocks per chunk."""
        return sum(
            step.evaluations
            for step in self.pipeline.sampler.plan_steps(options, self.pipeline.sampler.embed_times(options))
        )

    @torch.inference_mode()
    def generate(self, clip: Clip, options: SamplingOptions) -> GeneratedClip:
        """Generate the video of a clip."""
        start = time.perf_counter()
        options = replace(options, max_frames_num=clip.row.num_frames)
        frames = np.concatenate([to_uint8(part) for part in self.pipeline.stream(self.request(clip), options)])
        return GeneratedClip(frames=frames, seconds=time.perf_counter() - start)

    def request(self, clip: Clip) -> Request:
        """The request of a clip: voices in the row's order, person boxes if the row gives them."""
        order = clip.row.face_of_voice
        image = Image.fromarray(clip.image())
        person_masks = None
        if clip.row.boxes != "default":
            faces = scenes.face_boxes(clip.scene)
            first, second = (torch.from_numpy(faces[face].to_mask(image.height, image.width)) for face in order)
            person_masks = (first, second)
        return Request(
            image=image,
            speech=tuple(self.embed(clip.waveforms[face]) for face in order),
            prompt=clip.scene.prompt,
            person_masks=person_masks,
            video=_Film(clip.silent_film()) if clip.row.conditioning == "film" else None,
        )

    def embed(self, waveform_N: NDArray[np.float32]) -> Tensor:
        """Speech embeddings of a 16 kHz waveform, frames x layers x width."""
        return self.speech.get_embeddings(self.speech.extract_features(waveform_N, SPEECH_RATE)).cpu()

    @torch.inference_mode()
    def vae_round_trip(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encode and decode frames with the VAE, an upper bound of any transformer's quality; F is 4n + 1."""
        video = torch.from_numpy(frames).permute(3, 0, 1, 2).float().to(self.pipeline.device) / 127.5 - 1
        vae = self.pipeline.models.vae
        return to_uint8(torch.cat(list(vae.decode(vae.encode(video))), dim=1))

    def set_preset_lora(self, preset: str | None) -> None:
        """Merge exactly the LoRA of a preset (None: turbo), if it has one."""
        name = choose_preset(self.pipeline.config, turbo=True, name=preset).lora
        path = None if name is None else weights.locate_lora(self.folder, name)
        if name is not None and path is None:
            raise FileNotFoundError(f"{self.folder} has no LoRA {name}, which preset {preset} needs")
        self.set_loras([] if path is None else [Lora(weights=path)])

    def set_loras(self, loras: Sequence[Lora]) -> None:
        """Merge exactly these LoRAs."""
        self.pipeline.use_loras(loras)

    @contextmanager
    def without_image_tokens(self) -> Iterator[None]:
        """Replace the CLIP image tokens by zeros."""
        pipeline = self.pipeline
        models = pipeline.models
        zeroed = replace(models, image_encoder=_ZeroImageEncoder(models.image_encoder.model))
        self.pipeline = MultiTalkPipeline.from_models(pipeline.config, zeroed)
        try:
            yield
        finally:
            self.pipeline = pipeline


@dataclass(frozen=True, slots=True)
class _Film:
    """Frames as a source video, F x H x W x 3."""

    frames: NDArray[np.uint8]
    cuts: tuple[int, ...] = ()

    def frame_at(self, index: int) -> Image.Image:
        """The frame, past the end the last one."""
        return Image.fromarray(self.frames[min(index, len(self.frames) - 1)])


class _ZeroImageEncoder(ImageEncoder):
    """An image encoder whose tokens are all zero."""

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        return torch.zeros_like(super().__call__(frame_CHW))


def to_uint8(video_CFHW: Tensor) -> NDArray[np.uint8]:
    """[-1, 1] to uint8 F x H x W x 3."""
    pixels = ((video_CFHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
