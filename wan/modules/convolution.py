"""Convolutions over time on a processor.

PyTorch gives those of a single clip to oneDNN only where channels, frames and rows are many, and else to a fallback
that copies each window into a row of a matrix (`use_mkldnn` in its Convolution.cpp). A small VAE is below the bound.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OneDNN(TorchFunctionMode):
    """Within this context, convolutions over time in float32 on a processor are oneDNN's, where PyTorch has it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv3d and not kwargs and len(args) == 7 and _suits(args[0]):
            x_BCFHW, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(x_BCFHW, weight, bias, padding, stride, dilation, groups)
        return func(*args, **(kwargs or {}))


def _suits(x_BCFHW: Tensor) -> bool:
    on_processor = x_BCFHW.device.type == "cpu" and x_BCFHW.dtype == torch.float32
    return on_processor and torch.backends.mkldnn.is_available()
