"""The metrics of a finished request: names and values as Cog, RunPod, the batch and the HTTP API report them."""

from typing import Any

from app.job import Job
from app.progress import JobProgress
from src.media.rates import frames_at
from wan import MultiTalkPipeline
from wan.modules.attention import chosen_backends
from wan.modules.kernels import dispatch


def job_metrics(job: Job, progress: JobProgress) -> dict[str, Any]:
    """Seed, frames and size of the file in pixels, and seconds by stage; a dot in a name makes a nested metric."""
    height, width = job.size
    timer = progress.timer
    metrics = {
        "seed": job.options.seed,
        "frames": frames_at(job.fps, job.media.num_frames),
        "width": width,
        "height": height,
        "seconds.total": progress.seconds,
        **{f"seconds.{stage}": seconds for stage, seconds in timer.seconds.items()},
    }
    if timer.counts["denoise"]:
        metrics["seconds_per_step"] = timer.mean("denoise")
    return metrics


def pipeline_metrics(pipeline: MultiTalkPipeline) -> dict[str, Any]:
    """What computed the video: model, offload plan, kernel backend, and the attention backend of each kind of shape."""
    transformer = pipeline.models.transformer
    return {
        "model": pipeline.config.name,
        "memory_plan": str(pipeline.offload.plan),
        "kernels": "triton" if dispatch.is_enabled(transformer.device, transformer.dtype) else "plain",
        **{f"attention.{shape.kind}": backend for shape, backend in chosen_backends().items()},
    }
