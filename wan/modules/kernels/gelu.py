"""Triton kernel of the tanh approximation of GELU, in offset."""

import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch

_BLOCK = 2048
_WARPS = 8


@triton.jit
def _gelu(x_ptr: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """One block of a row: x * sigmoid(2u), since (1 + tanh(u)) / 2 = sigmoid(2u)."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offset = tl.program_id(0).to(tl.int64) * WIDTH + column
    x = tl.load(x_ptr + offset, mask=column < WIDTH, other=0.0).to(tl.float32)
    two_u = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x)
    tl.store(x_ptr + offset, (x * tl.sigmoid(two_u)).to(x_ptr.dtype.element_ty), mask=column < WIDTH)


def gelu_(x: Tensor) -> Tensor:
    """Overwrite the contiguous tensor with its GELU (tanh approximation) and return it."""
    assert x.is_contiguous()
    width = x.shape[-1]
    grid = (x.numel() // width, triton.cdiv(width, _BLOCK))
    launch(_gelu, grid, x, x, WIDTH=width, BLOCK=_BLOCK, num_warps=_WARPS)
    return x
