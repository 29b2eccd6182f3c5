"""Triton kernel of attention to classes of keys: a softmax over the keys whose values are class masks.

The online softmax of FlashAttention (Dao 2023): `m_i` is the running maximum of a query, `l_i` its running sum.

Shapes: B batch, L tokens, S keys (the first tokens), A attention heads, E head width; 3 classes.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wan.modules.kernels.dispatch import launch, power_of_two

_CLASS_TILE = 16
"""Width of the tile that holds the classes: the minimum of `tl.dot`."""
_WARPS = 8


@triton.jit(do_not_specialize=["tokens", "keys"])
def _class_attention(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    mass_ptr: tl.tensor,
    tokens: tl.tensor,
    keys: tl.tensor,
    scale: tl.tensor,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CLASSES: tl.constexpr,
    CLASS_TILE: tl.constexpr,
    E: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One block of queries of one head: the softmax mass on each class, float32. `scale` includes log2(e)."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, E)
    class_idx = tl.arange(0, CLASS_TILE)
    stride: tl.constexpr = HEADS * WIDTH
    base = batch * tokens * stride + head * WIDTH
    q = tl.load(
        q_ptr + base + query.to(tl.int64)[:, None] * stride + channel[None, :],
        mask=(query < tokens)[:, None] & (channel < WIDTH)[None, :],
        other=0.0,
    )
    m_i = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
    l_i = tl.zeros((BLOCK_Q,), tl.float32)
    mass = tl.zeros((BLOCK_Q, CLASS_TILE), tl.float32)
    for start in range(0, keys, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        k = tl.load(
            k_ptr + base + key[None, :] * stride + channel[:, None],
            mask=(key < keys)[None, :] & (channel < WIDTH)[:, None],
            other=0.0,
        )
        values = tl.load(
            masks_ptr + (batch * keys + key[:, None]) * CLASSES + class_idx[None, :],
            mask=(key < keys)[:, None] & (class_idx < CLASSES)[None, :],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where((key < keys)[None, :], scores, -float("inf"))
        m_new = tl.maximum(m_i, tl.max(scores, axis=1))
        alpha = tl.exp2(m_i - m_new)
        weights = tl.exp2(scores - m_new[:, None])
        l_i = l_i * alpha + tl.sum(weights, axis=1)
        mass = tl.dot(weights.to(q.dtype), values.to(q.dtype), mass * alpha[:, None], input_precision="ieee")
        m_i = m_new
    tl.store(
        mass_ptr + ((batch * HEADS + head) * tokens + query)[:, None] * CLASSES + class_idx[None, :],
        mass / l_i[:, None],
        mask=(query < tokens)[:, None] & (class_idx < CLASSES)[None, :],
    )


def class_attention(q_BLAE: Tensor, k_BLAE: Tensor, masks_BS3: Tensor) -> Tensor:
    """Mean over heads of the softmax mass on each class, float32 B x L x 3. Keys are the first S tokens of `k_BLAE`."""
    q, k, masks = q_BLAE.contiguous(), k_BLAE.contiguous(), masks_BS3.float().contiguous()
    batch, tokens, heads, width = q.shape
    keys, classes = masks.shape[1:]
    assert k.shape == q.shape
    assert len(masks) == batch
    mass_BAL3 = torch.empty(batch, heads, tokens, classes, device=q.device)
    full_precision = q.dtype == torch.float32
    block_q, block_k = (64, 32) if full_precision else (128, 64)
    launch(
        _class_attention,
        (triton.cdiv(tokens, block_q), heads, batch),
        q,
        q,
        k,
        masks,
        mass_BAL3,
        tokens,
        keys,
        math.log2(math.e) / math.sqrt(width),
        HEADS=heads,
        WIDTH=width,
        CLASSES=classes,
        CLASS_TILE=_CLASS_TILE,
        E=max(power_of_two(width), 16),
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        num_warps=_WARPS,
    )
    return mass_BAL3.mean(1)
