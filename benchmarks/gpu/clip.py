"""A whole clip from files to a file through the generator, in four steps: everything on the device, and streamed."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.generator import VideoGenerator, probe_device
from app.settings import read_settings
from benchmarks.endurance.memory import EXAMPLES, write_voice
from benchmarks.gpu.bench import Bench, label, weight_bytes
from benchmarks.gpu.memory import with_peak
from benchmarks.gpu.networks import draw_models, draw_speech
from benchmarks.gpu.vae import DECODE, PICTURE, vae_flops
from benchmarks.speed import roofline
from benchmarks.speed.timing import Spread
from src.serving.health import Health
from wan.checkpoint import Models
from wan.multitalk import MultiTalkPipeline
from wan.types import FPS, VideoSize

logger = logging.getLogger(__name__)

STEPS = 4
MARGIN = 1.12
"""The limit of the leanest plan over its peak, a little above the share that planning keeps free."""


def measure_clip(bench: Bench) -> dict[str, Any]:
    """Three plans one after the other, and what the streamed ones take against the first."""
    models = draw_models(bench.config, bench.device)
    generator = ready(bench)
    rows: dict[str, Any] = {}
    for name in ("resident", "streamed", "leanest"):
        generator.pipeline = pipeline_of(name, bench, models)
        rows[name] = clip(bench, generator, models, streamed=name != "resident")
    resident = rows["resident"]["total"]["median_s"]
    return {
        "steps": STEPS,
        **rows,
        **{f"{name}_over_resident": rows[name]["total"]["median_s"] / resident for name in ("streamed", "leanest")},
    }


def ready(bench: Bench) -> VideoGenerator:
    """The generator as after its setup, but for the pipeline."""
    generator = VideoGenerator.__new__(VideoGenerator)
    settings = read_settings({"MULTITALK_MODEL": bench.config.name})
    generator.settings = replace(settings, config=bench.config)
    generator.speech_encoder = draw_speech(bench.config, bench.device)
    generator.health = Health(lambda: probe_device(bench.device), Path(tempfile.gettempdir()))
    return generator


def pipeline_of(name: str, bench: Bench, models: Models) -> MultiTalkPipeline:
    """Under the plan of this name; the leanest is the one that needs least memory."""
    persistent = None if name == "resident" else 0
    pipeline = MultiTalkPipeline.from_models(bench.config, models, num_persistent_param_in_dit=persistent)
    pipeline.device = pipeline.offload.device = bench.device
    if name == "leanest":
        peaks = [plan.peak for plan in pipeline.offload.planner.plans(bench.named[0], 1)]
        pipeline.offload.memory_limit = int(MARGIN * min(peaks))
    return pipeline


def clip(bench: Bench, generator: VideoGenerator, models: Models, streamed: bool) -> dict[str, Any]:
    """Seconds by stage, medians of the repeats, and the peak of memory; the first clip is a warm-up, which also moves
    the networks to where the plan wants them."""
    frames = bench.config.frame_num
    taken: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "voice.wav"
        write_voice(voice, 1 + frames // FPS)
        request = {
            "image": EXAMPLES / "two_people.png",
            "first_audio": voice,
            "num_frames": frames,
            "preset": "fast",
            "lora_strength": 0.0,
            "sampling_steps": STEPS,
            "seed": 1,
        }
        encoders = models.text_encoder.model, models.image_encoder.model
        held = weight_bytes([models.transformer, models.vae.model, *encoders])
        make(generator, request)
        (metrics, file_bytes), peak = with_peak(lambda: make(generator, request), bench.device, held)
        for _ in range(bench.repeats):
            metrics, _ = make(generator, request)
            seconds = {name.removeprefix("seconds."): value for name, value in metrics.items() if "seconds." in name}
            taken.append(seconds)
    size = VideoSize(frames=frames, height=metrics["height"], width=metrics["width"])
    return {
        "size": label(size),
        "plan": metrics["memory_plan"],
        "file_bytes": file_bytes,
        "peak_bytes": peak,
        "total": Spread.of([each["total"] for each in taken]).over(floor(bench, size, models, streamed)),
        "seconds": {stage: Spread.of([each[stage] for each in taken]).median_s for stage in taken[0]},
    }


def floor(bench: Bench, size: VideoSize, models: Models, streamed: bool) -> float:
    """Seconds of the clip's forwards at best, its blocks' way from the host if that takes longer, and of the VAE."""
    passes = 1 if bench.config.presets["fast"].audio_guide_scale == 1 else 2
    held = weight_bytes([models.transformer])
    forward = roofline.forward_seconds(bench.config.transformer, size, 1, bench.ceilings, held)
    if streamed and bench.ceilings.upload:
        forward = max(forward, weight_bytes(list(models.transformer.blocks.children())) / bench.ceilings.upload)
    flops = vae_flops(bench.config.vae, size)
    return STEPS * passes * forward + (flops[PICTURE] + flops[DECODE]) / bench.ceilings.product


def make(generator: VideoGenerator, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """One video; its metrics, and the size of its file in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        output = generator.generate(request, Path(folder))
        return output.metrics, output.path.stat().st_size
