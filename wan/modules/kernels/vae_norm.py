"""Triton kernel of the VAE decoder: RMS norm over channels and SiLU, written behind the cached frames.

Shapes: B = 1 batch, C channels, F frames, H x W; activations are channels-last, so a row is one pixel's channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_TILE = 4096
"""Elements of a program's tile: many rows, since a row has only 96 to 384 channels."""
_WARPS = 8


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_silu(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    out_ptr: tl.tensor,
    rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """A tile of rows: x / rms(x) times the weight, rounded, then SiLU, rounded."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < WIDTH)
    x = tl.load(x_ptr + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + eps)
    y = (x * scale[:, None] * weight).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * WIDTH + column, (y * tl.sigmoid(y)).to(out_ptr.dtype.element_ty), mask=mask)


def rms_norm_silu(x_BCFHW: Tensor, weight_C: Tensor, eps: float, out_BCFHW: Tensor) -> None:
    """Write SiLU of the RMS norm of x into `out_BCFHW`, channels-last frames of a larger tensor."""
    x = x_BCFHW.contiguous(memory_format=torch.channels_last_3d)
    width = x.shape[1]
    rows, block = x.numel() // width, power_of_two(width)
    assert out_BCFHW.shape == x.shape
    assert out_BCFHW.stride()[1:] == (1, *(width * stride for stride in (x[0, 0].numel() // x.shape[2], x.shape[4], 1)))
    tile_rows = max(_TILE // block, 1)
    grid = (triton.cdiv(rows, tile_rows),)
    constants = {"WIDTH": width, "BLOCK": block, "ROWS": tile_rows, "num_warps": _WARPS}
    launch(_rms_norm_silu, grid, x, x, weight_C, out_BCFHW, rows, eps, **constants)
