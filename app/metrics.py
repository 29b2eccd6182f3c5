"""The metrics of a finished request: names and values as Cog, RunPod, the batch and the HTTP API report them."""

from typing import Any

from app.job import Job
from app.progress import JobProgress
from src.media.rates import FPS, frames_at
from wan import MultiTalkPipeline
from wan.checkpoint import Precision
from wan.checkpoint.component import dtype_name
from wan.checkpoint.components import QUANTIZED_DTYPES
from wan.modules.attention import chosen_backends
from wan.modules.block_formats import stored_forms
from wan.modules.kernels import dispatch


def job_metrics(job: Job, progress: JobProgress) -> dict[str, Any]:
    """Seed, the file, and seconds by stage; a dot in a name makes a nested metric."""
    height, width = job.size
    timer = progress.timer
    metrics = {"seed": job.options.seed} | file_metrics(job.fps, job.media.num_frames, height=height, width=width)
    metrics |= time_metrics(progress)
    if timer.counts["denoise"]:
        metrics["seconds_per_step"] = timer.mean("denoise")
    return metrics


def preview_metrics(job: Job, progress: JobProgress, *, height: int, width: int) -> dict[str, Any]:
    """The file of a preview, which no model made: frames, size, duration, and the seconds that it took."""
    return {"preview": True} | file_metrics(job.fps, FPS, height=height, width=width) | time_metrics(progress)


def file_metrics(fps: int, num_frames: int, *, height: int, width: int) -> dict[str, Any]:
    """Frames, size in pixels and seconds of a file at `fps` that shows `num_frames` frames of the model's rate."""
    frames = frames_at(fps, num_frames)
    return {"frames": frames, "width": width, "height": height, "video_seconds": round(frames / fps, 3)}


def time_metrics(progress: JobProgress) -> dict[str, float]:
    """Seconds since the request began, and by stage."""
    stages = {f"seconds.{stage}": seconds for stage, seconds in progress.timer.seconds.items()}
    return {"seconds.total": progress.seconds, **stages}


def stored_weights(pipeline: MultiTalkPipeline, precision: Precision | None) -> str:
    """The form of the video transformer's weights, and MULTITALK_DTYPE (`precision`) where the files have another."""
    transformer = pipeline.models.transformer
    forms = stored_forms(transformer)
    text = ", ".join(f"{form} in {count} layers" for form, count in sorted(forms.items()))
    wanted = dtype_name(QUANTIZED_DTYPES[precision]) if precision in QUANTIZED_DTYPES else None
    others = f" (the form of the files; MULTITALK_DTYPE is {precision})" if wanted and forms.keys() - {wanted} else ""
    return (text or dtype_name(transformer.dtype)) + others


def pipeline_metrics(pipeline: MultiTalkPipeline, precision: Precision | None) -> dict[str, Any]:
    """What computed the video: model, weights, offload plan, kernel backend, attention backend by kind of shape."""
    transformer = pipeline.models.transformer
    return {
        "model": pipeline.config.name,
        "weights": stored_weights(pipeline, precision),
        "memory_plan": str(pipeline.offload.plan),
        **({} if pipeline.pool is None else {"gpus": pipeline.pool.group.num_ranks}),
        "kernels": "triton" if dispatch.is_enabled(transformer.device, transformer.dtype) else "plain",
        **{f"attention.{shape.kind}": backend for shape, backend in chosen_backends().items()},
    }
