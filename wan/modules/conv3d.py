"""3-D convolution that uses oneDNN on a CPU.

For batch size 1 PyTorch uses oneDNN only above a size threshold (`use_mkldnn` in its Convolution.cpp) that a small VAE
does not reach; its fallback copies each window into a row of a matrix (im2col), which is slower.

Shapes: B batch, C channels, F frames, H x W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve(convolution: nn.Conv3d, x_BCFHW: Tensor, padding: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """The convolution with zero padding of frames, rows and columns; oneDNN for float32 on the CPU where available."""
    weight, bias, stride = convolution.weight, convolution.bias, convolution.stride
    if _use_onednn(x_BCFHW):
        dilation, groups = convolution.dilation, convolution.groups
        return torch.mkldnn_convolution(x_BCFHW, weight, bias, padding, stride, dilation, groups)
    return F.conv3d(x_BCFHW, weight, bias, stride, padding)


def _use_onednn(x_BCFHW: Tensor) -> bool:
    is_cpu_float32 = x_BCFHW.device.type == "cpu" and x_BCFHW.dtype == torch.float32
    return is_cpu_float32 and torch.backends.mkldnn.is_available()
