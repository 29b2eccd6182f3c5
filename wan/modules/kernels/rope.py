"""Triton kernels of rotary embeddings: RMS normalization with 3-D RoPE in one pass, and label RoPE.

Shapes: B batch, L tokens, D = A E model width, A attention heads, E head width, P = E / 2 pairs.
A program holds one token as a tile of heads x head width.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_WARPS = 8


@triton.jit
def _rotate(x: tl.tensor, cos: tl.tensor, sin: tl.tensor, A: tl.constexpr, E: tl.constexpr) -> tl.tensor:
    """Rotate each pair (x[2i], x[2i + 1]) of a tile by its angle."""
    even, odd = tl.split(tl.reshape(x, (A, E // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (A, E))


@triton.jit(do_not_specialize=["tokens"])
def _rms_norm_rope(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    out_ptr: tl.tensor,
    tokens: tl.tensor,
    eps: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    E: tl.constexpr,
    ROTATE: tl.constexpr,
) -> None:
    """One token: x / rms(x), rounded, times the weight, rounded; with ROTATE rotated by its row of cos and sin."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, A)[:, None]
    column = tl.arange(0, E)[None, :]
    mask = (head < HEADS) & (column < WIDTH)
    offset = head * WIDTH + column
    x = tl.load(x_ptr + row * HEADS * WIDTH + offset, mask=mask, other=0.0)
    weight = tl.load(weight_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    x32 = x.to(tl.float32)
    mean = tl.sum(tl.sum(x32 * x32, axis=1), axis=0) / (HEADS * WIDTH)
    y = ((x32 * tl.rsqrt(mean + eps)).to(x.dtype).to(tl.float32) * weight).to(x.dtype)
    if ROTATE:
        pair = tl.arange(0, E // 2)[None, :]
        angle = row % tokens * (WIDTH // 2) + pair
        cos = tl.load(cos_ptr + angle, mask=pair < WIDTH // 2, other=1.0)
        sin = tl.load(sin_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
        y = _rotate(y.to(tl.float32), cos, sin, A, E).to(x.dtype)
    tl.store(out_ptr + row * HEADS * WIDTH + offset, y, mask=mask)


@triton.jit
def _label_rope(
    x_ptr: tl.tensor,
    labels_ptr: tl.tensor,
    out_ptr: tl.tensor,
    log2_step: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    E: tl.constexpr,
) -> None:
    """One token, pair i rotated by label * 2^(-log2_step * i)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, A)[:, None]
    column = tl.arange(0, E)[None, :]
    mask = (head < HEADS) & (column < WIDTH)
    offset = row * HEADS * WIDTH + head * WIDTH + column
    x = tl.load(x_ptr + offset, mask=mask, other=0.0)
    pair = tl.arange(0, E // 2)[None, :].to(tl.float32)
    angle = tl.load(labels_ptr + row) * tl.exp2(-log2_step * pair)
    y = _rotate(x.to(tl.float32), tl.cos(angle), tl.sin(angle), A, E)
    tl.store(out_ptr + offset, y.to(x.dtype), mask=mask)


def rms_norm_rope(
    x_BLD: Tensor, weight_D: Tensor, eps: float, heads: int, angles: tuple[Tensor, Tensor] | None
) -> Tensor:
    """RMS normalization over D times the weight, rotated if `angles` (cos and sin, each 1 x L x 1 x P) are given."""
    x = x_BLD.contiguous()
    out = torch.empty_like(x)
    tokens, dim = x.shape[-2:]
    width = dim // heads
    cos, sin = (table.contiguous() for table in angles) if angles else (None, None)
    launch(
        _rms_norm_rope,
        (x.numel() // dim,),
        x,
        x,
        weight_D,
        cos,
        sin,
        out,
        tokens,
        eps,
        HEADS=heads,
        WIDTH=width,
        A=power_of_two(heads),
        E=power_of_two(width),
        ROTATE=angles is not None,
        num_warps=_WARPS,
    )
    return out


def label_rope(x_BLAE: Tensor, labels_BL: Tensor, base: float) -> Tensor:
    """Pair i of each head rotated by label * base^(-2i / E); the kernel computes the angles."""
    x = x_BLAE.contiguous()
    out = torch.empty_like(x)
    heads, width = x.shape[-2:]
    launch(
        _label_rope,
        (x.numel() // (heads * width),),
        x,
        x,
        labels_BL.float().contiguous(),
        out,
        math.log2(base) * 2 / width,
        HEADS=heads,
        WIDTH=width,
        A=power_of_two(heads),
        E=power_of_two(width),
        num_warps=_WARPS,
    )
    return out
