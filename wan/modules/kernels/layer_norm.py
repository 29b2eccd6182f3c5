"""Triton kernel over the rows of a token stream: gated residual, layer normalization, affine or modulation.

Shapes: B batch, L tokens, D model width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_WARPS = 8


@triton.jit(do_not_specialize=["tokens"])
def _add_layer_norm(
    x_ptr: tl.tensor,
    y_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    out_ptr: tl.tensor,
    tokens: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    MODULATED: tl.constexpr,
) -> None:
    """One row: store the residual x + gate * y, rounded; store its normalization times scale plus shift, rounded.

    The gate, and with MODULATED also scale and shift, are per batch item, STRIDE elements apart.
    """
    row = tl.program_id(0).to(tl.int64)
    batch_offset = row // tokens * STRIDE
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    x = tl.load(x_ptr + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        y = tl.load(y_ptr + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
        if HAS_GATE:
            y *= tl.load(gate_ptr + batch_offset + column, mask=mask, other=0.0)
        residual = (x + y).to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + row * WIDTH + column, residual, mask=mask)
        x = residual.to(tl.float32)
    if HAS_NORM:
        centered = tl.where(mask, x - tl.sum(x, axis=0) / WIDTH, 0.0)
        normed = centered * tl.rsqrt(tl.sum(centered * centered, axis=0) / WIDTH + eps)
        if MODULATED:
            normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32)
            scale = 1.0 + tl.load(scale_ptr + batch_offset + column, mask=mask, other=0.0)
            shift = tl.load(shift_ptr + batch_offset + column, mask=mask, other=0.0)
        else:
            scale = tl.load(scale_ptr + column, mask=mask, other=0.0).to(tl.float32)
            shift = tl.load(shift_ptr + column, mask=mask, other=0.0).to(tl.float32)
        normed = normed * scale + shift
        tl.store(out_ptr + row * WIDTH + column, normed.to(out_ptr.dtype.element_ty), mask=mask)


def add_layer_norm(
    x_BLD: Tensor,
    y_BLD: Tensor | None,
    gate_BD: Tensor | None,
    affine: tuple[Tensor, Tensor] | None,
    modulated: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The residual x + gate * y, written over y, and its normalization.

    Without y the residual is x; without `affine` there is no normalization. `affine` is (scale, shift), each of width
    D, or with `modulated` each B x D in float32 and the scale applied as 1 + scale.
    """
    x = x_BLD.contiguous()
    residual = x if y_BLD is None else y_BLD.contiguous()
    out = residual if affine is None else torch.empty_like(x)
    scale, shift = affine or (None, None)
    per_item = [t for t in (gate_BD, *(affine if affine and modulated else ())) if t is not None]
    tokens, width = x.shape[-2:]
    batch_size = x.numel() // (tokens * width)
    stride = per_item[0].stride(0) if per_item and batch_size > 1 else 0
    assert all(t.shape == (batch_size, width) and t.stride(1) == 1 and t.dtype == torch.float32 for t in per_item)
    assert batch_size == 1 or all(t.stride(0) == stride for t in per_item)
    launch(
        _add_layer_norm,
        (x.numel() // width,),
        x,
        x,
        residual,
        gate_BD,
        scale,
        shift,
        residual,
        out,
        tokens,
        eps,
        WIDTH=width,
        STRIDE=stride,
        BLOCK=power_of_two(width),
        HAS_RESIDUAL=y_BLD is not None,
        HAS_GATE=gate_BD is not None,
        HAS_NORM=affine is not None,
        MODULATED=modulated,
        num_warps=_WARPS,
    )
    return residual, out
