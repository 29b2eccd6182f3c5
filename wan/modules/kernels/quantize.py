"""Triton kernel that rounds the rows of activations to eight bits, each with a scale of its own, in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_WARPS = 8


@triton.jit
def _quantize(
    x_ptr: tl.tensor,
    data_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """One row, whose largest value comes to the end of the range; divisions are rounded as PyTorch's are."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(x_ptr + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x), axis=0), LARGEST)
    scale = tl.where(scale == 0.0, 1.0, scale)
    scaled = tl.clamp(tl.div_rn(x, scale), -LARGEST, LARGEST)
    tl.store(data_ptr + row * WIDTH + column, scaled.to(data_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + row, scale)


def quantize(x_RI: Tensor, dtype: torch.dtype, largest: float) -> tuple[Tensor, Tensor]:
    """Data of `dtype`, a floating-point format up to `largest`, and the float32 scale of every row, R x 1."""
    x = x_RI.contiguous()
    rows, width = x.shape
    data = torch.empty_like(x, dtype=dtype)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    constants = {"WIDTH": width, "BLOCK": power_of_two(width), "LARGEST": largest, "num_warps": _WARPS}
    launch(_quantize, (rows,), x, x, data, scale, **constants)
    return data, scale
