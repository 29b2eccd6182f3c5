"""Convolutions over time.

PyTorch gives those of a single clip to oneDNN only where channels, frames and rows are many, and else to a fallback
that copies each window into a row of a matrix (`use_mkldnn` in its Convolution.cpp). A small VAE is below the bound.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve(convolution: nn.Conv3d, x_BCFHW: Tensor, padding: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """The convolution with zeros around frames, rows and columns; by oneDNN in float32 on a processor that has it."""
    weight, bias, stride = convolution.weight, convolution.bias, convolution.stride
    if _suits(x_BCFHW):
        dilation, groups = convolution.dilation, convolution.groups
        return torch.mkldnn_convolution(x_BCFHW, weight, bias, padding, stride, dilation, groups)
    return F.conv3d(x_BCFHW, weight, bias, stride, padding)


def _suits(x_BCFHW: Tensor) -> bool:
    on_processor = x_BCFHW.device.type == "cpu" and x_BCFHW.dtype == torch.float32
    return on_processor and torch.backends.mkldnn.is_available()
