"""Color transfer in CIE Lab (Reinhard et al. 2001), which corrects color drift over chunks.

Shapes: C = 3 channels, F frames, H x W.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

# sRGB primaries and the D65 white point (IEC 61966-2-1).
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ_TO_RGB = torch.linalg.inv(torch.tensor(_RGB_TO_XYZ, dtype=torch.float64)).tolist()
_LAB_EPSILON = 0.008856
_MIN_STD = 0.02
"""Standard deviation, in Lab units, below which a channel counts as constant; rounding to 8 bits makes 0.005."""


class LabStats(NamedTuple):
    """Mean and standard deviation of each Lab channel, broadcastable to C x F x H x W."""

    mean: Tensor
    std: Tensor


def lab_stats(video_CFHW: Tensor) -> LabStats:
    """Statistics of each frame of an sRGB video in [-1, 1]."""
    return _lab_stats(rgb_to_lab(((video_CFHW + 1) / 2).clamp(0, 1)))


def match_color(video_CFHW: Tensor, target: LabStats, strength: float) -> Tensor:
    """Match each frame's mean and standard deviation per Lab channel to the target's, blended by `strength` in 0..1.

    Input and output in [-1, 1]; `target` is of one frame. A constant channel only gets the target's mean.
    """
    source = ((video_CFHW + 1) / 2).clamp(0, 1)
    lab = rgb_to_lab(source)
    mean, std = _lab_stats(lab)
    scale = torch.where(std > _MIN_STD, target.std / std.clamp(min=_MIN_STD), 0.0)
    matched = lab_to_rgb((lab - mean) * scale + target.mean).clamp(0, 1)
    return torch.lerp(source, matched, strength) * 2 - 1


def rgb_to_lab(rgb_CFHW: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIE Lab (L 0..100)."""
    linear = torch.where(rgb_CFHW > 0.04045, ((rgb_CFHW + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb_CFHW / 12.92)
    constants = _constants(linear.device, linear.dtype)
    xyz = _mix(constants.rgb_to_xyz, linear) / constants.white
    f = torch.where(xyz > _LAB_EPSILON, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def lab_to_rgb(lab_CFHW: Tensor) -> Tensor:
    """CIE Lab to sRGB, not clipped above 1; negative linear values become 0."""
    lightness, a, b = lab_CFHW
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)))
    constants = _constants(f.device, f.dtype)
    xyz = torch.where(f > _LAB_EPSILON ** (1 / 3), f**3, (f - 16 / 116) / 7.787) * constants.white
    linear = _mix(constants.xyz_to_rgb, xyz)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0) ** (1 / 2.4) - 0.055, linear * 12.92)


def _lab_stats(lab_CFHW: Tensor) -> LabStats:
    std, mean = torch.std_mean(lab_CFHW, dim=(-2, -1), correction=0, keepdim=True)
    return LabStats(mean, std)


def _mix(matrix: Tensor, image_CFHW: Tensor) -> Tensor:
    return torch.einsum("ij,jfhw->ifhw", matrix, image_CFHW)


class _Constants(NamedTuple):
    """On one device; `white` is broadcastable to C x F x H x W."""

    rgb_to_xyz: Tensor
    xyz_to_rgb: Tensor
    white: Tensor


@functools.cache
@torch.inference_mode(False)
def _constants(device: torch.device, dtype: torch.dtype) -> _Constants:
    """Copied once per device: a copy from pageable memory waits for all kernels before it."""
    return _Constants(
        rgb_to_xyz=torch.tensor(_RGB_TO_XYZ, device=device, dtype=dtype),
        xyz_to_rgb=torch.tensor(_XYZ_TO_RGB, device=device, dtype=dtype),
        white=torch.tensor(_WHITE, device=device, dtype=dtype)[:, None, None, None],
    )
