"""Triton kernel over the rows of a token stream: gate, residual sum, layer normalisation and what follows it.

Shapes: B batch, L tokens, D model width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_WARPS = 8


@triton.jit(do_not_specialize=["tokens"])
def _rows(
    x_ptr: tl.tensor,
    y_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    out_ptr: tl.tensor,
    tokens: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    NORMS: tl.constexpr,
    MODULATED: tl.constexpr,
) -> None:
    """One row: x + gate * y, rounded and stored; its normalisation, times scale plus shift, rounded and stored.

    Gates, and scale and shift where MODULATED, belong to an item of the batch, STRIDE elements from one to the next.
    """
    row = tl.program_id(0).to(tl.int64)
    item = row // tokens * STRIDE
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(x_ptr + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        y = tl.load(y_ptr + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            y *= tl.load(gate_ptr + item + column, mask=inside, other=0.0)
        total = (x + y).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * WIDTH + column, total, mask=inside)
        x = total.to(tl.float32)
    if NORMS:
        centerd = tl.where(inside, x - tl.sum(x, axis=0) / WIDTH, 0.0)
        normed = centerd * tl.rsqrt(tl.sum(centerd * centerd, axis=0) / WIDTH + eps)
        if MODULATED:
            normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32)
            scale = 1.0 + tl.load(scale_ptr + item + column, mask=inside, other=0.0)
            shift = tl.load(shift_ptr + item + column, mask=inside, other=0.0)
        else:
            scale = tl.load(scale_ptr + column, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(shift_ptr + column, mask=inside, other=0.0).to(tl.float32)
        normed = normed * scale + shift
        tl.store(out_ptr + row * WIDTH + column, normed.to(out_ptr.dtype.element_ty), mask=inside)


def add_layer_norm(
    x_BLD: Tensor,
    y_BLD: Tensor | None,
    gate_BD: Tensor | None,
    affine: tuple[Tensor, Tensor] | None,
    modulated: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The sum x + gate * y and its normalisation; without y the sum is x, without `affine` there is no normalisation.

    `affine` is scale and shift, of width D, or B x D and float32 where `modulated`. The sum is written over y.
    """
    x = x_BLD.contiguous()
    total = x if y_BLD is None else y_BLD.contiguous()
    out = total if affine is None else torch.empty_like(x)
    scale, shift = affine or (None, None)
    of_items = [t for t in (gate_BD, *(affine if affine and modulated else ())) if t is not None]
    tokens, width = x.shape[-2:]
    items = x.numel() // (tokens * width)
    stride = of_items[0].stride(0) if of_items and items > 1 else 0
    assert all(t.shape == (items, width) and t.stride(1) == 1 and t.dtype == torch.float32 for t in of_items)
    assert items == 1 or all(t.stride(0) == stride for t in of_items)
    launch(
        _rows,
        (x.numel() // width,),
        x,
        x,
        total,
        gate_BD,
        scale,
        shift,
        total,
        out,
        tokens,
        eps,
        WIDTH=width,
        STRIDE=stride,
        BLOCK=power_of_two(width),
        ADDS=y_BLD is not None,
        GATED=gate_BD is not None,
        NORMS=affine is not None,
        MODULATED=modulated,
        num_warps=_WARPS,
    )
    return total, out
