"""Three-dimensional convolutions on a processor.

For one clip of few channels and rows torch takes a plain loop (`use_mkldnn` in ATen/native/Convolution.cpp decides)
in place of oneDNN, which gives the same numbers to rounding, and on the small model's VAE three times as fast.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CONV3D = torch.nn.functional.conv3d


class OneDnnConvolutions(TorchFunctionMode):
    """Within it, float32 convolutions in three dimensions on the CPU are oneDNN's; for inference, without gradients."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls for every function; all but `conv3d` stay as they are."""
        if func is _CONV3D and _suits(*args):
            return _convolve(*args)
        return func(*args, **(kwargs or {}))


def _suits(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> bool:
    on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available()


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
