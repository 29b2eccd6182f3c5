"""Triton kernel of GELU in its tanh form, in place."""

import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch

_BLOCK = 2048
_WARPS = 8


@triton.jit
def _gelu(x_ptr: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """A block of one row; (1 + tanh(u)) / 2 is the sigmoid of 2u."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    x = tl.load(x_ptr + place, mask=column < WIDTH, other=0.0).to(tl.float32)
    twice = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x)
    tl.store(x_ptr + place, (x * tl.sigmoid(twice)).to(x_ptr.dtype.element_ty), mask=column < WIDTH)


def gelu_(x: Tensor) -> Tensor:
    """GELU(tanh) over the contiguous tensor itself."""
    assert x.is_contiguous()
    width = x.shape[-1]
    grid = (x.numel() // width, triton.cdiv(width, _BLOCK))
    launch(_gelu, grid, x, x, WIDTH=width, BLOCK=_BLOCK, num_warps=_WARPS)
    return x
