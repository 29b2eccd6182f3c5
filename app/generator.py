"""VideoGenerator: the model loaded once, and one request after another from inputs to an MP4 with its metrics.

What predict.py, the RunPod worker, Modal, the HTTP API, the batch and Python callers share. It knows nothing of Cog.
"""

import logging
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image

import weights
from app.frame_download import Pixels, download
from app.inputs import validate_inputs
from app.job import Job, fit_options, prepare_job
from app.metrics import job_metrics, pipeline_metrics, preview_metrics
from app.progress import JobProgress
from app.settings import Settings, read_settings
from app.speakers import draw_preview
from src.audio_analysis.long_audio import embed_speech
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.errors import InputError
from src.media.photograph import is_photograph
from src.media.provenance import provenance
from src.media.rates import SPEECH_RATE
from src.media.video.scene_cuts import detect_scene_cuts
from src.media.video.threaded_writer import ThreadedWriter
from src.media.video.writer import VideoWriter
from src.serving.cancellation import raise_if_cancelled
from src.serving.eta import TimeLimitError
from src.serving.health import Health
from src.serving.malloc import trim_malloc_on_exit
from src.serving.request_warnings import collect_warnings, warn_caller
from wan import MultiTalkPipeline
from wan.checkpoint import CheckpointError, Precision
from wan.checkpoint.layout import (
    TOKENIZER_BUNDLE,
    find_speech_encoder,
    is_converted,
    missing_weights,
    present_bundles,
    read_manifest,
)
from wan.checkpoint.lora import LoraError
from wan.checkpoint.repackaged import OtherFiles
from wan.conditioning.request import Request
from wan.configs import ModelConfig
from wan.configs.capabilities import choose_device
from wan.sampling.options import resolve_options
from wan.types import FPS

logger = logging.getLogger("multitalk")

DEFAULT_PRECISION: Precision = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished MP4, and its metrics: seed, size, frames, seconds by stage, and what computed it.

    `speech_shape` is the shape of the last voice's embeddings, frames x layers x width; empty for a preview.
    """

    path: Path
    metrics: dict[str, Any]
    speech_shape: tuple[int, ...] = ()


class VideoGenerator:
    """The pipeline and the speech encoder on one device. Not thread-safe: one `generate` at a time."""

    def __init__(self, settings: Settings) -> None:
        """Download missing weights and load the model.

        Raises RuntimeError for a model that needs a GPU where there is none and for weights that are missing or do
        not fit, WeightsError for a download that fails.
        """
        start = time.perf_counter()
        self.settings = settings
        choose_device(settings.config, device_id=0)  # fail before anything is downloaded
        ensure_weights(settings)
        self.pipeline = load_pipeline(settings)
        self.speech_encoder = load_speech_encoder(settings, self.pipeline.device)
        device = self.pipeline.device
        self.health = Health(self.probe, Path(tempfile.gettempdir()))
        logger.info("%s loaded on %s in %.1f s", settings.config.name, device, time.perf_counter() - start)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Load what the environment variables of docs/configuration.md say.

        Raises ValueError, which names the variable, for an invalid value, and what the constructor raises.
        """
        return cls(read_settings(environ))

    def probe(self) -> None:
        """Raises what the driver of a dead device raises, and RankError if the process of another GPU has ended."""
        probe_device(self.pipeline.device)
        self.pipeline.check()

    def warm_up(self) -> None:
        """Run one denoising step on a short clip, so that the first request does not pay for lazy initialization."""
        config = self.settings.config
        tone_N = np.sin(np.arange(SPEECH_RATE, dtype=np.float32))
        with torch.inference_mode():
            request = Request(
                image=Image.new("RGB", (512, 256), "grey"),
                speech=(embed_speech(self.speech_encoder, tone_N),) * config.max_persons,
                prompt="warm-up",
            )
            size_class = next(iter(config.buckets))
            options = resolve_options(config, size_class=size_class, turbo=True, sampling_steps=1, seed=0)
            if self.pipeline.device.type == "cpu":  # nothing is compiled or tuned for the size of a chunk
                options = fit_options(self.settings, options, num_frames=5)
            deque(self.pipeline.stream(request, options), maxlen=0)

    def generate(self, inputs: Mapping[str, Any], output_dir: Path) -> Output:
        """Make one video from the inputs of `predict()`, by name; absent ones have the schema's defaults.

        Files are `Path`s. Writes `output.mp4` into `output_dir`, which must exist; after an exception there is none.
        Progress and cancellation: `src.serving.cancellation.request_context`. Raises ValueError (ValidationError,
        InputError, TimeLimitError) for what the caller can correct, CancelledError, and RuntimeError when the GPU's
        memory is not enough.
        """
        started = time.perf_counter()
        values = validate_inputs(inputs)
        with torch.inference_mode(), trim_malloc_on_exit(), collect_warnings() as messages:
            try:
                with closing(prepare_job(self.settings, values)) as job:
                    progress = JobProgress(self.settings.max_runtime, started)
                    path = output_dir / "output.mp4"
                    speech_shape: tuple[int, ...] = ()
                    if job.preview:
                        metrics = {"model": self.settings.config.name} | write_preview(job, path, progress)
                    else:
                        warn_about_photograph(self.settings.config, job)
                        if values["detect_cuts"]:
                            find_scene_cuts(job, progress)
                        speech_shape = self.write_video(job, path, progress)
                        metrics = pipeline_metrics(self.pipeline, self.settings.precision) | job_metrics(job, progress)
            except (InputError, TimeLimitError):
                raise
            except torch.OutOfMemoryError as error:
                logger.exception("the request ran out of GPU memory")
                raise RuntimeError(
                    f"the GPU's memory is not enough for this request ({error}); {memory_advice(self.settings, values)}"
                ) from error
            except Exception:
                logger.exception("the request failed")
                raise
        if messages:
            metrics["warnings"] = "; ".join(messages)
        return Output(path=path, metrics=metrics, speech_shape=speech_shape)

    def write_video(self, job: Job, path: Path, progress: JobProgress) -> tuple[int, ...]:
        """Run the networks and encode the frames as they are decoded. Returns the shape of the speech embeddings.

        Raises TimeLimitError as soon as the estimated time exceeds the limit.
        """
        media, config = job.media, self.settings.config
        logger.info("seed %d, %d frames", job.options.seed, media.num_frames)
        logger.debug("prompt: %s", job.prompt)
        try:
            self.pipeline.use_loras(job.loras)
        except LoraError as error:
            raise InputError(f"a LoRA of lora, loras, lora_files or preset does not fit this model: {error}") from error
        for warning in self.pipeline.loras.warnings:
            warn_caller(warning)
        num_persons, (height, width) = len(media.timeline.waveforms), job.size
        self.pipeline.reserve_memory(job.options, num_persons, height=height, width=width)
        request = self.make_request(job)
        progress.finish("speech")
        writer = VideoWriter(
            path,
            width=width,
            height=height,
            fps=job.fps,
            soundtrack=media.timeline.soundtrack,
            num_frames=media.num_frames,
            comment=provenance(config.name, job.options.seed) if self.settings.embed_provenance else None,
        )
        slices = self.pipeline.stream(request, job.options, progress.on_pipeline_progress)
        with writer as video, ThreadedWriter(video.write) as encoder, closing(slices):
            for pixels in download(slices):
                progress.timer.add("decode")
                encoder.write(self.check_finite(pixels))
                progress.timer.add("encode")
        progress.finish("finish")
        return tuple(request.speech[-1].shape)

    def make_request(self, job: Job) -> Request:
        """The pipeline's request: the image with its layout, speech embeddings of every waveform, the prompt."""
        media = job.media
        return Request(
            image=media.image,
            speech=tuple(embed_speech(self.speech_encoder, waveform_N) for waveform_N in media.timeline.waveforms),
            prompt=job.prompt,
            video=media.video,
            layout=job.layout,
        )

    def check_finite(self, pixels: Pixels) -> np.ndarray:
        """The frames. RuntimeError if they had NaN or Inf, which also marks the model unhealthy: they would encode as
        black, and the next request's frames may be NaN too. InputError where LoRAs are merged."""
        if pixels.is_finite:
            self.health.set_fault("result", None)
            return pixels.frames_FHWC
        if self.pipeline.loras.active:
            raise InputError(
                "the video has NaN or Inf with these LoRAs; lora_strength, or those in loras, must be lower"
            )
        self.health.set_fault("result", "the last video had NaN or Inf in its frames")
        raise RuntimeError("the model produced NaN or Inf; the video is discarded")


def ensure_weights(settings: Settings) -> None:
    """Complete a converted folder, or fetch one from the operator's URL; without either download missing bundles."""
    path, config = settings.model_path, settings.config
    is_missing = missing_weights(config, path, settings.precision) is not None
    if (is_converted(path) or is_missing) and weights.ensure_model(path, config.name, settings.precision):
        return
    files = config.files
    present = present_bundles(config, path, settings.precision)
    required = [name for name in files.bundles if name in weights.BUNDLES and name not in present]
    if files.base in present and files.base in weights.BUNDLES and is_missing:
        required.append(TOKENIZER_BUNDLE)
    others = OtherFiles(config, path).description if is_missing else ""
    if others:
        logger.warning("%s lacks weights%s", path, others)
    try:
        weights.ensure(path, required)
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{error}{others}") from error


def choose_precision(settings: Settings) -> Precision:
    """MULTITALK_DTYPE if it is set, else the dtype of a converted folder, else bf16.

    Raises RuntimeError if the folder was converted to another 8-bit dtype than MULTITALK_DTYPE says.
    """
    path = settings.model_path
    stored = read_manifest(path)["dtype"] if is_converted(path) else DEFAULT_PRECISION
    precision = settings.precision or stored
    if stored not in (DEFAULT_PRECISION, precision):
        raise RuntimeError(
            f"MULTITALK_DTYPE is {precision!r}, but {path} was converted to {stored}: unset MULTITALK_DTYPE, or set "
            "MODEL_PATH to other weights"
        )
    return cast(Precision, precision)


def load_pipeline(settings: Settings) -> MultiTalkPipeline:
    """The pipeline on the first GPU or the CPU; RuntimeError, which names MODEL_PATH, for a checkpoint that fails."""
    try:
        return MultiTalkPipeline(
            config=settings.config,
            checkpoint_dir=settings.model_path,
            device_id=0,
            precision=choose_precision(settings),
            memory_limit=settings.memory_limit,
            num_persistent_param_in_dit=settings.num_persistent_params,
            num_gpus=settings.num_gpus,
        )
    except CheckpointError as error:
        raise RuntimeError(f"MODEL_PATH is {str(settings.model_path)!r}: {error}") from error


def load_speech_encoder(settings: Settings, device: torch.device) -> Wav2Vec2Model:
    """wav2vec2 on the device; RuntimeError, which names MODEL_PATH and the folder, if it cannot be read."""
    folder = find_speech_encoder(settings.config, settings.model_path)
    try:
        encoder = Wav2Vec2Model.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what transformers raises for a damaged file depends on the file
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"MODEL_PATH is {str(settings.model_path)!r}: the speech encoder in {folder} cannot be read: {reason}"
        ) from error
    encoder.to(device)  # type: ignore[arg-type]
    return encoder


def memory_advice(settings: Settings, inputs: Mapping[str, Any]) -> str:
    """What needs less of the GPU's memory than a request that ran out of it under the smallest offload plan."""
    smallest = next(iter(settings.config.buckets))
    if inputs["resolution"] != f"{smallest}p":
        return f"resolution {smallest}p needs less"
    if settings.precision != "fp8":
        return "weights in fp8 need less (MULTITALK_DTYPE, which the operator sets)"
    return "other programs on that GPU leave too little"


def write_preview(job: Job, path: Path, progress: JobProgress) -> dict[str, Any]:
    """A second of the cropped first frame with the speakers' regions and names drawn on it; no network runs.

    Returns the metrics of that file.
    """
    image_HWC = np.asarray(draw_preview(job.media, job.layout, second_speaks=job.has_second_voice))
    height, width, _ = image_HWC.shape
    with VideoWriter(path, width=width, height=height, fps=job.fps, num_frames=FPS) as video:
        video.write(np.repeat(image_HWC[None], FPS, axis=0))
    return preview_metrics(job, progress, height=height, width=width)


def warn_about_photograph(config: ModelConfig, job: Job) -> None:
    """Warn the caller of a built-in model, which was trained on drawn people only, about a photograph."""
    if config.built_in and is_photograph(job.media.image):
        warn_caller(
            f"image looks like a photograph, and {config.name} knows drawn people only; photographs need the published "
            "weights (MULTITALK_MODEL)"
        )


def find_scene_cuts(job: Job, progress: JobProgress) -> None:
    """Detect where the scenes of a source video begin; an image has one scene."""
    video = job.media.video
    if video is not None:
        video.cuts = detect_scene_cuts(video, job.media.num_frames, raise_if_cancelled)
        progress.finish("cuts", f"at frames {', '.join(map(str, video.cuts)) or 'none'}")


def probe_device(device: torch.device) -> None:
    """Run a trivial kernel on a stream of its own; raises what a dead device's driver raises."""
    if device.type == "cuda":
        with torch.cuda.stream(torch.cuda.Stream(device)):
            torch.ones(1, device=device).item()
