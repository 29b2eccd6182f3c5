"""What a worker on RunPod says of itself."""

import sys
from importlib.metadata import version
from typing import Any

import torch

from app.settings import Settings
from deploy.runner import Runner
from wan.checkpoint import CheckpointError
from wan.checkpoint.layout import find_layout

UNUSED = ("wav2vec2-base-960h", "gfpgan")
"""Folders of older packages on the volume that nothing here reads."""
PACKAGES = ("torch", "transformers", "diffusers", "cog", "runpod")
ENGINE = "MultiTalkPipeline"


def health(engine: Runner, settings: Settings) -> dict[str, Any]:
    """Whether requests can be served, and by what."""
    missing = missing_weights(settings)
    answer: dict[str, Any] = {
        "status": "healthy" if missing is None and well(engine) else "unhealthy",
        "multitalk_inference": {
            "available": missing is None,
            "loaded": engine.generator is not None,
            "engine": ENGINE,
            "model": settings.config.name,
        },
        "model_path": str(settings.folder),
        "unused_folders": [name for name in UNUSED if (settings.folder / name).exists()],
        "gpu": gpu(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    }
    if problem := engine.failure or missing:
        answer["problem"] = problem  # RunPod would take an `error` for a failed job
    if engine.generator is not None and not engine.generator.health.well:
        answer["faults"] = dict(engine.generator.health.faults)
    return answer


def well(engine: Runner) -> bool:
    """No model yet is no fault."""
    return engine.generator is None or engine.generator.health.well


def missing_weights(settings: Settings) -> str | None:
    """What the folder lacks, as one sentence."""
    try:
        layout = find_layout(settings.config, settings.folder, settings.precision)
    except CheckpointError as error:
        return str(error)
    networks = (layout.transformer, layout.text_encoder, layout.image_encoder, layout.vae)
    needed = [*(path for network in networks for path in network.files), layout.tokenizer, layout.speech_encoder]
    absent = [str(path) for path in needed if not path.exists()]
    return f"weights are missing: {', '.join(absent)}" if absent else None


def gpu() -> dict[str, Any]:
    """The device and its memory in bytes."""
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
