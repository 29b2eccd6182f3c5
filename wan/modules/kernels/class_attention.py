"""Triton kernel of the attention to classes of keys: an online softmax whose values are the columns of a mask.

Shapes: B batch, L tokens, S keys (the first tokens), A attention heads, E head width; 3 classes.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_COLUMNS = 16
"""Width of the tile that holds the classes: the least that a matrix product takes."""
_WARPS = 8


@triton.jit(do_not_specialize=["tokens", "keys"])
def _class_mass(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    columns_ptr: tl.tensor,
    mass_ptr: tl.tensor,
    tokens: tl.tensor,
    keys: tl.tensor,
    scale: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    E: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A block of queries of one head of one item: its mass on each class, float32. `scale` includes log2(e)."""
    head = tl.program_id(1)
    item = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    column = tl.arange(0, E)
    of_class = tl.arange(0, COLUMNS)
    stride: tl.constexpr = HEADS * WIDTH
    here = item * tokens * stride + head * WIDTH
    q = tl.load(
        q_ptr + here + token.to(tl.int64)[:, None] * stride + column[None, :],
        mask=(token < tokens)[:, None] & (column < WIDTH)[None, :],
        other=0.0,
    )
    most = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mass = tl.zeros((BLOCK_Q, COLUMNS), tl.float32)
    for start in range(0, keys, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        k = tl.load(
            k_ptr + here + key[None, :] * stride + column[:, None],
            mask=(key < keys)[None, :] & (column < WIDTH)[:, None],
            other=0.0,
        )
        values = tl.load(
            columns_ptr + (item * keys + key[:, None]) * CLASSES + of_class[None, :],
            mask=(key < keys)[:, None] & (of_class < CLASSES)[None, :],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where((key < keys)[None, :], scores, -float("inf"))
        higher = tl.maximum(most, tl.max(scores, axis=1))
        fade = tl.exp2(most - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * fade + tl.sum(weights, axis=1)
        mass = tl.dot(weights.to(q.dtype), values.to(q.dtype), mass * fade[:, None], input_precision="ieee")
        most = higher
    tl.store(
        mass_ptr + ((item * HEADS + head) * tokens + token)[:, None] * CLASSES + of_class[None, :],
        mass / total[:, None],
        mask=(token < tokens)[:, None] & (of_class < CLASSES)[None, :],
    )


def class_attention(q_BLAE: Tensor, k_BLAE: Tensor, columns_BS3: Tensor) -> Tensor:
    """Mean over heads of the softmax mass on each column of keys: float32 B x L x 3. Keys are the first S tokens."""
    q, k, columns = q_BLAE.contiguous(), k_BLAE.contiguous(), columns_BS3.float().contiguous()
    batch, tokens, heads, width = q.shape
    keys, classes = columns.shape[1:]
    assert k.shape == q.shape
    assert len(columns) == batch
    mass_BAL3 = torch.empty(batch, heads, tokens, classes, device=q.device)
    wide = q.dtype == torch.float32
    block_q, block_k = (64, 32) if wide else (128, 64)
    launch(
        _class_mass,
        (triton.cdiv(tokens, block_q), heads, batch),
        q,
        q,
        k,
        columns,
        mass_BAL3,
        tokens,
        keys,
        math.log2(math.e) / math.sqrt(width),
        HEADS=heads,
        WIDTH=width,
        CLASSES=classes,
        COLUMNS=_COLUMNS,
        E=max(power_of_two(width), 16),
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        num_warps=_WARPS,
    )
    return mass_BAL3.mean(1)
