"""The RunPod worker's health report: model, weights, GPU and package versions."""

import sys
from importlib.metadata import version
from typing import Any

import torch

from app.settings import Settings
from deploy.runner import Runner
from wan.checkpoint.layout import missing_weights

LEGACY_FOLDERS = ("wav2vec2-base-960h", "gfpgan")
"""Folders of earlier packages on the volume, which are not used."""
PACKAGES = ("torch", "transformers", "diffusers", "cog", "runpod")
ENGINE = "MultiTalkPipeline"


def health_report(runner: Runner, settings: Settings) -> dict[str, Any]:
    """The answer to a health check. A model that is not loaded yet counts as healthy if its weights are complete."""
    missing = missing_weights(settings.config, settings.model_path, settings.precision)
    generator = runner.generator
    healthy = missing is None and (generator is None or generator.health.is_healthy)
    report: dict[str, Any] = {
        "status": "healthy" if healthy else "unhealthy",
        "multitalk_inference": {
            "available": missing is None,
            "loaded": generator is not None,
            "engine": ENGINE,
            "model": settings.config.name,
        },
        "model_path": str(settings.model_path),
        "unused_folders": [name for name in LEGACY_FOLDERS if (settings.model_path / name).exists()],
        "gpu": gpu_report(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    }
    if problem := runner.failure or missing:
        report["problem"] = problem  # not "error": RunPod would mark the job as failed
    if generator is not None and not generator.health.is_healthy:
        report["faults"] = dict(generator.health.faults)
    return report


def gpu_report() -> dict[str, Any]:
    """The GPU and its memory in bytes."""
    if not torch.cuda.is_available():
        return {"available": False}
    free, total = torch.cuda.mem_get_info()
    return {
        "available": True,
        "name": torch.cuda.get_device_name(),
        "free_memory": free,
        "total_memory": total,
        "cuda": torch.version.cuda,
    }
