"""Devices a model runs on, and requests it supports."""

import torch

from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig


def choose_device(config: ModelConfig, device_id: int) -> torch.device:
    """The GPU, or without one the CPU. Raises RuntimeError for a model that needs a GPU."""
    if torch.cuda.is_available():
        return torch.device(f"cuda:{device_id}")
    if config.needs_gpu:
        small = [name for name, other in WAN_CONFIGS.items() if not other.needs_gpu]
        raise RuntimeError(
            f"{config.name} needs an NVIDIA GPU and this machine has none that PyTorch can use; "
            f"set MULTITALK_MODEL={' or '.join(small)} for a small model that runs on a CPU"
        )
    return torch.device("cpu")


def choose_devices(config: ModelConfig, device_id: int, num_gpus: int | None) -> list[torch.device]:
    """The devices of all ranks: `num_gpus` GPUs from `device_id` on, None for all of them.

    Without a GPU, so many processes on the CPU. Raises RuntimeError for more GPUs than there are.
    """
    first = choose_device(config, device_id)
    if first.type != "cuda":
        return [first] * (num_gpus or 1)
    available = torch.cuda.device_count() - device_id
    if num_gpus is not None and num_gpus > available:
        raise RuntimeError(f"{num_gpus} GPUs are asked for, and this machine has {available}")
    return [torch.device(f"cuda:{device_id + index}") for index in range(num_gpus or available)]


def check_supported(config: ModelConfig, num_persons: int, video: bool) -> None:
    """Raise ValueError, which lists the models that can, if the model does not support the request."""
    if video and config.mode != "infinitetalk":
        others = [name for name, other in WAN_CONFIGS.items() if other.mode == "infinitetalk"]
        raise ValueError(
            f"image is a video, and {config.name} accepts a still image only; a video is supported by "
            f"{', '.join(others)} (the operator sets MULTITALK_MODEL)"
        )
    if num_persons > config.max_persons:
        others = [name for name, other in WAN_CONFIGS.items() if other.max_persons >= num_persons]
        raise ValueError(
            f"{num_persons} persons have a voice or a region, and {config.name} supports {config.max_persons}; "
            f"{', '.join(others)} can distinguish them (the operator sets MULTITALK_MODEL)"
        )
