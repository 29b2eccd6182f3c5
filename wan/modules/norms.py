"""Normalization, modulation, gates and residuals, rounded at the same points as the reference implementation.

Shapes: B batch, L tokens, D model width, A attention heads, E head width. The functions `eager_*` are the reference of
the Triton kernels in `wan.modules.kernels`, which run where `use_triton` says so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.kernels.dispatch import use_triton
from wan.modules.rope import RotaryEmbedding, apply_rope

Modulation = tuple[Tensor, Tensor]
"""Shift and scale of a time step, each B x D, float32."""


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis in float32, rounded to the dtype of x, times a weight (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x_BLD: Tensor, num_heads: int, rotary_emb: RotaryEmbedding | None = None) -> Tensor:
        """The normalized x split into heads, B x L x A x E, rotated if `rotary_emb` is given."""
        if use_triton(x_BLD) and self.weight.dtype == x_BLD.dtype:
            from wan.modules.kernels import rope as kernels

            normed = kernels.rms_norm_rope(x_BLD, self.weight, self.eps, num_heads, rotary_emb)
            return normed.unflatten(-1, (num_heads, -1))
        normed = eager_rms_norm(x_BLD, self.weight, self.eps).unflatten(-1, (num_heads, -1))
        return normed if rotary_emb is None else apply_rope(normed, rotary_emb)


class LayerNorm(nn.LayerNorm):
    """Layer normalization computed in float32 and rounded to the dtype of x, affine or modulated."""

    def forward(self, x_BLD: Tensor, modulation: Modulation | None = None) -> Tensor:
        """The normalized x; with `modulation`, the normalized x times (1 + scale), plus shift."""
        affine = self._affine(modulation)
        if affine is not None and use_triton(x_BLD):
            from wan.modules.kernels import layer_norm as kernels

            return kernels.add_layer_norm(x_BLD, None, None, affine, modulation is not None, self.eps)[1]
        return self._eager(x_BLD, modulation)

    def add_norm(
        self, x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None = None, modulation: Modulation | None = None
    ) -> tuple[Tensor, Tensor]:
        """The residual x + gate * y (x + y without a gate) and its norm as in `forward`. May overwrite y."""
        affine = self._affine(modulation)
        if affine is not None and use_triton(x_BLD):
            from wan.modules.kernels import layer_norm as kernels

            return kernels.add_layer_norm(x_BLD, y_BLD, gate_BD, affine, modulation is not None, self.eps)
        x_BLD = gated_residual(x_BLD, y_BLD, gate_BD)
        return x_BLD, self._eager(x_BLD, modulation)

    def _affine(self, modulation: Modulation | None) -> tuple[Tensor, Tensor] | None:
        """(scale, shift) for the kernel, None if there are none."""
        if modulation is not None:
            return modulation[1], modulation[0]
        return None if self.weight is None else (self.weight, self.bias)

    def _eager(self, x_BLD: Tensor, modulation: Modulation | None) -> Tensor:
        if modulation is None:
            return eager_layer_norm(x_BLD, self.weight, self.bias, self.eps)
        return eager_modulated_norm(x_BLD, *modulation, self.eps)


def gated_residual(x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None = None) -> Tensor:
    """x + gate * y in float32, rounded to the dtype of x; x + y without a gate. May overwrite y."""
    if use_triton(x_BLD):
        from wan.modules.kernels import layer_norm as kernels

        return kernels.add_layer_norm(x_BLD, y_BLD, gate_BD, None, False, 0.0)[0]
    return eager_gated_residual(x_BLD, y_BLD, gate_BD)


def eager_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x), rounded, times the weight."""
    x32 = x.float()
    mean = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square() / x.shape[-1]
    return (x32 * (mean + eps).rsqrt()).to(x.dtype) * weight


def eager_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalization in float32, rounded once."""
    weight, bias = (None if p is None else p.float() for p in (weight, bias))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def eager_modulated_norm(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor, eps: float) -> Tensor:
    """adaLN (Peebles & Xie 2023): the rounded norm times 1 + scale, plus shift, rounded.

    In float32 nothing is rounded in between, so at batch size 1 scale and shift become the norm's affine parameters.
    """
    if x_BLD.dtype == torch.float32 and len(shift_BD) == 1:
        return eager_layer_norm(x_BLD, 1 + scale_BD[0], shift_BD[0], eps)
    normed = eager_layer_norm(x_BLD, None, None, eps).float()
    return torch.addcmul(shift_BD[:, None], normed, 1 + scale_BD[:, None]).to(x_BLD.dtype)


def eager_gated_residual(x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None) -> Tensor:
    """The residual in float32, rounded once."""
    if gate_BD is None:
        return x_BLD + y_BLD if torch.is_grad_enabled() else y_BLD.add_(x_BLD)
    if torch.is_grad_enabled() or y_BLD.dtype != torch.float32:
        return torch.addcmul(x_BLD.float(), y_BLD.float(), gate_BD[:, None]).to(x_BLD.dtype)
    return torch.addcmul(x_BLD, y_BLD, gate_BD[:, None], out=y_BLD)
