"""Triton kernels that turn pairs of queries and keys: RMS normalisation and 3-D RoPE in one pass, and label RoPE.

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
def _turn(x: tl.tensor, cos: tl.tensor, sin: tl.tensor, A: tl.constexpr, E: tl.constexpr) -> tl.tensor:
    """Every pair (x[2i], x[2i + 1]) of a tile by the angle of its column pair."""
    even, odd = tl.split(tl.reshape(x, (A, E // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (A, E))


@triton.jit(do_not_specialize=["tokens"])
def _norm_turn(
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
    TURNS: tl.constexpr,
) -> None:
    """One token: x / rms(x), rounded, times the weight, rounded; turned by its row of cos and sin."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, A)[:, None]
    column = tl.arange(0, E)[None, :]
    inside = (head < HEADS) & (column < WIDTH)
    place = head * WIDTH + column
    x = tl.load(x_ptr + row * HEADS * WIDTH + place, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0).to(tl.float32)
    x32 = x.to(tl.float32)
    mean = tl.sum(tl.sum(x32 * x32, axis=1), axis=0) / (HEADS * WIDTH)
    y = ((x32 * tl.rsqrt(mean + eps)).to(x.dtype).to(tl.float32) * weight).to(x.dtype)
    if TURNS:
        pair = tl.arange(0, E // 2)[None, :]
        angle = row % tokens * (WIDTH // 2) + pair
        cos = tl.load(cos_ptr + angle, mask=pair < WIDTH // 2, other=1.0)
        sin = tl.load(sin_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
        y = _turn(y.to(tl.float32), cos, sin, A, E).to(x.dtype)
    tl.store(out_ptr + row * HEADS * WIDTH + place, y, mask=inside)


@triton.jit
def _label_turn(
    x_ptr: tl.tensor,
    labels_ptr: tl.tensor,
    out_ptr: tl.tensor,
    step: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    E: tl.constexpr,
) -> None:
    """One token turned by label * 2^(-step * pair)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, A)[:, None]
    column = tl.arange(0, E)[None, :]
    inside = (head < HEADS) & (column < WIDTH)
    place = row * HEADS * WIDTH + head * WIDTH + column
    x = tl.load(x_ptr + place, mask=inside, other=0.0)
    pair = tl.arange(0, E // 2)[None, :].to(tl.float32)
    angle = tl.load(labels_ptr + row) * tl.exp2(-step * pair)
    y = _turn(x.to(tl.float32), tl.cos(angle), tl.sin(angle), A, E)
    tl.store(out_ptr + place, y.to(x.dtype), mask=inside)


def rms_norm_rope(
    x_BLD: Tensor, weight_D: Tensor, eps: float, heads: int, angles: tuple[Tensor, Tensor] | None
) -> Tensor:
    """RMS normalisation over D times the weight; turned where `angles`, cos and sin of 1 x L x 1 x P, are given."""
    x = x_BLD.contiguous()
    out = torch.empty_like(x)
    tokens, dim = x.shape[-2:]
    width = dim // heads
    cos, sin = (table.contiguous() for table in angles) if angles else (None, None)
    launch(
        _norm_turn,
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
        TURNS=angles is not None,
        num_warps=_WARPS,
    )
    return out


def label_rope(x_BLAE: Tensor, labels_BL: Tensor, base: float) -> Tensor:
    """Pair i of a token's heads turned by label * base^(-2i / E), the angles made where they are used."""
    x = x_BLAE.contiguous()
    out = torch.empty_like(x)
    heads, width = x.shape[-2:]
    launch(
        _label_turn,
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
