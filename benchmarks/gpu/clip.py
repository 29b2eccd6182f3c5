"""Stage `clip`: a whole clip from input files to an MP4 in four denoising steps, resident and with streamed blocks."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.generator import VideoGenerator, probe_device
from app.settings import read_settings
from benchmarks.endurance.memory import EXAMPLES, write_audio
from benchmarks.gpu.bench import Bench, format_size, weight_bytes
from benchmarks.gpu.memory import with_peak_memory
from benchmarks.gpu.networks import random_models, random_speech_encoder
from benchmarks.gpu.vae import DECODE, ENCODE_IMAGE, vae_flops
from benchmarks.speed import roofline
from benchmarks.speed.timing import TimingStats
from src.serving.health import Health
from wan.checkpoint import Models
from wan.multitalk import MultiTalkPipeline
from wan.types import FPS, VideoSize

STEPS = 4
PLANS = ("resident", "streamed", "smallest")
"""Offload plans: everything on the device, all blocks streamed, and the one that needs the least memory."""
MARGIN = 1.12
"""Memory limit for the smallest plan relative to its estimated peak; slightly above the planner's reserve."""


def measure_clip(bench: Bench) -> dict[str, Any]:
    """Seconds and peak memory under every offload plan, and the ratio of the streamed plans to the resident one."""
    models = random_models(bench.config, bench.device)
    generator = make_generator(bench)
    rows: dict[str, Any] = {}
    for plan in PLANS:
        generator.pipeline = make_pipeline(plan, bench, models)
        rows[plan] = measure_plan(bench, generator, models, streamed=plan != "resident")
    resident_s = rows["resident"]["total"]["median_s"]
    ratios = {f"{plan}_over_resident": rows[plan]["total"]["median_s"] / resident_s for plan in PLANS[1:]}
    return {"steps": STEPS, **rows, **ratios}


def make_generator(bench: Bench) -> VideoGenerator:
    """A generator without a pipeline, with a random speech encoder."""
    generator = VideoGenerator.__new__(VideoGenerator)
    settings = read_settings({"MULTITALK_MODEL": bench.config.name})
    generator.settings = replace(settings, config=bench.config)
    generator.speech_encoder = random_speech_encoder(bench.config, bench.device)
    generator.health = Health(lambda: probe_device(bench.device), Path(tempfile.gettempdir()))
    return generator


def make_pipeline(plan: str, bench: Bench, models: Models) -> MultiTalkPipeline:
    """A pipeline that chooses the offload plan."""
    num_persistent_params = None if plan == "resident" else 0
    pipeline = MultiTalkPipeline.from_models(
        bench.config, models, num_persistent_param_in_dit=num_persistent_params, device=bench.device
    )
    if plan == "smallest":
        peaks = [candidate.peak for candidate in pipeline.offload.planner.plans(bench.main_sizes[0], 1)]
        pipeline.offload.memory_limit = int(MARGIN * min(peaks))
    return pipeline


def measure_plan(bench: Bench, generator: VideoGenerator, models: Models, streamed: bool) -> dict[str, Any]:
    """Median seconds by stage, and peak memory; the first clip is a warm-up that also applies the offload plan."""
    frames = bench.config.frame_num
    timings: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio.wav"
        write_audio(audio, 1 + frames // FPS)
        inputs = {
            "image": EXAMPLES / "two_people.png",
            "first_audio": audio,
            "num_frames": frames,
            "preset": "fast",
            "lora_strength": 0.0,
            "sampling_steps": STEPS,
            "seed": 1,
        }
        encoders = models.text_encoder.model, models.image_encoder.model
        model_bytes = weight_bytes([models.transformer, models.vae.model, *encoders])
        generate(generator, inputs)
        (metrics, file_bytes), peak = with_peak_memory(lambda: generate(generator, inputs), bench.device, model_bytes)
        for _ in range(bench.repeats):
            metrics, _ = generate(generator, inputs)
            timings.append({key.removeprefix("seconds."): metrics[key] for key in metrics if "seconds." in key})
    size = VideoSize(frames=frames, height=metrics["height"], width=metrics["width"])
    stats = {stage: TimingStats.from_seconds([timing[stage] for timing in timings]) for stage in timings[0]}
    return {
        "size": format_size(size),
        "plan": metrics["memory_plan"],
        "file_bytes": file_bytes,
        "peak_bytes": peak,
        "total": stats["total"].with_roofline(clip_roofline(bench, size, models, streamed)),
        "seconds": {stage: each.median_s for stage, each in stats.items()},
    }


def clip_roofline(bench: Bench, size: VideoSize, models: Models, streamed: bool) -> float:
    """Minimum seconds of the VAE and of the forwards (or of uploading the streamed blocks, if that takes longer)."""
    passes = 1 if bench.config.presets["fast"].audio_guide_scale == 1 else 2
    model_bytes = weight_bytes([models.transformer])
    forward_s = roofline.min_forward_seconds(bench.config.transformer, size, 1, bench.peak, model_bytes)
    if streamed and bench.peak.host_to_device:
        block_bytes = weight_bytes(list(models.transformer.blocks.children()))
        forward_s = max(forward_s, block_bytes / bench.peak.host_to_device)
    flops = vae_flops(bench.config.vae, size)
    return STEPS * passes * forward_s + (flops[ENCODE_IMAGE] + flops[DECODE]) / bench.peak.matmul


def generate(generator: VideoGenerator, inputs: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Generate one video; returns its metrics and the size of the file in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        output = generator.generate(inputs, Path(folder))
        return output.metrics, output.path.stat().st_size
