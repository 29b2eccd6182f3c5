"""Where a model can run, and what it can be asked for."""

import torch

from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig


def choose_device(config: ModelConfig, device_id: int) -> torch.device:
    """The GPU, or the CPU for a model that may run there; RuntimeError for one that may not."""
    if torch.cuda.is_available():
        return torch.device(f"cuda:{device_id}")
    if config.needs_gpu:
        small = [name for name, other in WAN_CONFIGS.items() if not other.needs_gpu]
        raise RuntimeError(
            f"{config.name} needs an NVIDIA GPU and this machine has none that PyTorch can use; "
            f"set MULTITALK_MODEL={' or '.join(small)} for a small model that runs on a processor"
        )
    return torch.device("cpu")


def check_supported(config: ModelConfig, persons: int, video: bool) -> None:
    """Raise ValueError that names the models of this package which can do what this one cannot."""
    if video and config.mode != "infinitetalk":
        others = [name for name, other in WAN_CONFIGS.items() if other.mode == "infinitetalk"]
        raise ValueError(
            f"image is a video, and {config.name} continues from a picture only; a video can be shown to "
            f"{', '.join(others)} (the operator sets MULTITALK_MODEL)"
        )
    if persons > config.persons:
        others = [name for name, other in WAN_CONFIGS.items() if other.persons >= persons]
        raise ValueError(
            f"{persons} persons are to be told apart (each has a voice or a place of their own), and {config.name} was "
            f"trained for {config.persons}; {', '.join(others)} can do it (the operator sets MULTITALK_MODEL)"
        )
