"""Rotary position embedding (Su et al. 2021) on interleaved pairs: 3-D for the video, 1-D for speaker labels.

Shapes: B batch, L tokens, A attention heads, E head width, P = E / 2 pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wan.modules.kernels.dispatch import use_triton

_BASE = 10000.0


class RotaryEmbedding(NamedTuple):
    """Cosine and sine of each pair's angle, float32, broadcastable to B x L x A x P."""

    cos: Tensor
    sin: Tensor


def apply_rope(x_BLAE: Tensor, rotary_emb: RotaryEmbedding) -> Tensor:
    """Rotate each pair (x[2i], x[2i + 1]) by its angle, in float32; the result has the dtype of `x_BLAE`."""
    pairs = torch.view_as_complex(x_BLAE.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(*rotary_emb)).flatten(-2).to(x_BLAE.dtype)


def apply_label_rope(x_BLAE: Tensor, labels_BL: Tensor) -> Tensor:
    """Rotate pair i by label * 10000^(-2i / E), in float32 (L-RoPE, Kong et al. 2025, section 3.3)."""
    if use_triton(x_BLAE):
        from wan.modules.kernels import rope as kernels

        return kernels.label_rope(x_BLAE, labels_BL, _BASE)
    return apply_rope(x_BLAE, label_rope(labels_BL, x_BLAE.shape[-1]))


def video_rope(grid: tuple[int, int, int], head_dim: int, device: torch.device | str) -> RotaryEmbedding:
    """Embedding of a T x rows x columns token grid, shape 1 x L x 1 x P, computed in float64.

    The channels of a head are split into three groups with frequencies of their own: head_dim - 4 (head_dim // 6)
    channels rotate by the frame index, 2 (head_dim // 6) each by the row and by the column.
    """
    spatial = 2 * (head_dim // 6)
    widths = (head_dim - 2 * spatial, spatial, spatial)
    positions = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = torch.cat(
        [position[..., None] * _frequencies(width) for position, width in zip(positions, widths, strict=True)], dim=-1
    ).reshape(1, -1, 1, head_dim // 2)
    return RotaryEmbedding(angles.cos().float().to(device), angles.sin().float().to(device))


def label_rope(labels_BL: Tensor, head_dim: int) -> RotaryEmbedding:
    """Embedding with angles label * 10000^(-2i / head_dim), shape B x L x 1 x P, computed in float32."""
    angles = labels_BL.float()[..., None, None] * _frequencies(head_dim, labels_BL.device).float()
    return RotaryEmbedding(angles.cos(), angles.sin())


def _frequencies(width: int, device: torch.device | str = "cpu") -> Tensor:
    return _BASE ** -(torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
