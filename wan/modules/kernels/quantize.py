"""Triton kernel that quantizes activations to eight bits with one scale per row, in one pass.

Shapes: R rows, I inputs.
"""

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
    MAX_VALUE: tl.constexpr,
) -> None:
    """One row, scaled so that its max_value magnitude becomes MAX_VALUE; `div_rn` rounds divisions as PyTorch does."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    x = tl.load(x_ptr + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x), axis=0), MAX_VALUE)
    scale = tl.where(scale == 0.0, 1.0, scale)
    scaled = tl.clamp(tl.div_rn(x, scale), -MAX_VALUE, MAX_VALUE)
    tl.store(data_ptr + row * WIDTH + column, scaled.to(data_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + row, scale)


def quantize(x_RI: Tensor, dtype: torch.dtype, max_value: float) -> tuple[Tensor, Tensor]:
    """Data of `dtype`, a floating-point format whose maximum is `max_value`, and the float32 scales, R x 1."""
    x = x_RI.contiguous()
    rows, width = x.shape
    data = torch.empty_like(x, dtype=dtype)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    constants = {"WIDTH": width, "BLOCK": power_of_two(width), "MAX_VALUE": max_value, "num_warps": _WARPS}
    launch(_quantize, (rows,), x, x, data, scale, **constants)
    return data, scale
