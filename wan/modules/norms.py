"""Normalisation, modulation, gates and residual sums, with the reference's rounding points.

Shapes: B batch, L tokens, D model width, A attention heads, E head width. The functions `plain_*` say what is computed;
the Triton kernels of `wan.modules.kernels` do the same where there is a device for them.
"""

import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.kernels.dispatch import use_triton
from wan.modules.rope import RotaryEmbedding, apply_rope

Modulation = tuple[Tensor, Tensor]
"""Shift and scale of a time step, each B x D, float32."""


class RMSNorm(nn.Module):
    """x / rms(x) in float32 over the last axis, rounded to the dtype of x, times a weight (Zhang 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x_BLD: Tensor, heads: int, rotation: RotaryEmbedding | None = None) -> Tensor:
        """B x L x A x E: the normalised x in heads, turned where a rotation is given."""
        if use_triton(x_BLD) and self.weight.dtype == x_BLD.dtype:
            turns = importlib.import_module("wan.modules.kernels.rope")
            normed = turns.norm_turn(x_BLD, self.weight, self.eps, heads, rotation)
            return normed.unflatten(-1, (heads, -1))
        normed = plain_rms_norm(x_BLD, self.weight, self.eps).unflatten(-1, (heads, -1))
        return normed if rotation is None else apply_rope(normed, rotation)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 and rounded to the dtype of x, affine or modulated."""

    def forward(self, x_BLD: Tensor, modulation: Modulation | None = None) -> Tensor:
        """The normalised x; with a modulation, x (1 + scale) + shift of it."""
        affine = self._affine(modulation)
        if affine is not None and use_triton(x_BLD):
            return _rows().sum_norm(x_BLD, None, None, affine, modulation is not None, self.eps)[1]
        return self._plain(x_BLD, modulation)

    def of_sum(
        self, x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None = None, modulation: Modulation | None = None
    ) -> tuple[Tensor, Tensor]:
        """x + gate * y (without a gate, x + y) and what `forward` makes of it. The sum may be written over y."""
        affine = self._affine(modulation)
        if affine is not None and use_triton(x_BLD):
            return _rows().sum_norm(x_BLD, y_BLD, gate_BD, affine, modulation is not None, self.eps)
        x_BLD = gated_residual(x_BLD, y_BLD, gate_BD)
        return x_BLD, self._plain(x_BLD, modulation)

    def _affine(self, modulation: Modulation | None) -> tuple[Tensor, Tensor] | None:
        """Scale and shift as the kernel takes them."""
        if modulation is not None:
            return modulation[1], modulation[0]
        return None if self.weight is None else (self.weight, self.bias)

    def _plain(self, x_BLD: Tensor, modulation: Modulation | None) -> Tensor:
        if modulation is None:
            return plain_layer_norm(x_BLD, self.weight, self.bias, self.eps)
        return plain_modulated_norm(x_BLD, *modulation, self.eps)


def gated_residual(x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None = None) -> Tensor:
    """x + gate * y in float32, rounded to the dtype of x; without a gate, x + y. It may be written over y."""
    if use_triton(x_BLD):
        return _rows().sum_norm(x_BLD, y_BLD, gate_BD, None, False, 0.0)[0]
    return plain_gated_sum(x_BLD, y_BLD, gate_BD)


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x), rounded, times the weight."""
    x32 = x.float()
    mean = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square() / x.shape[-1]
    return (x32 * (mean + eps).rsqrt()).to(x.dtype) * weight


def plain_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation in float32, rounded once."""
    weight, bias = (None if p is None else p.float() for p in (weight, bias))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def plain_modulated_norm(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor, eps: float) -> Tensor:
    """The norm, rounded, times 1 + scale, plus shift, rounded (adaLN, Peebles & Xie 2023).

    In float32 nothing is rounded in between, and for a single item both are the norm's own affine parameters.
    """
    if x_BLD.dtype == torch.float32 and len(shift_BD) == 1:
        return plain_layer_norm(x_BLD, 1 + scale_BD[0], shift_BD[0], eps)
    normed = plain_layer_norm(x_BLD, None, None, eps).float()
    return torch.addcmul(shift_BD[:, None], normed, 1 + scale_BD[:, None]).to(x_BLD.dtype)


def plain_gated_sum(x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor | None) -> Tensor:
    """The sum in float32, rounded once."""
    if gate_BD is None:
        return x_BLD + y_BLD if torch.is_grad_enabled() else y_BLD.add_(x_BLD)
    if torch.is_grad_enabled() or y_BLD.dtype != torch.float32:
        return torch.addcmul(x_BLD.float(), y_BLD.float(), gate_BD[:, None]).to(x_BLD.dtype)
    return torch.addcmul(x_BLD, y_BLD, gate_BD[:, None], out=y_BLD)


def _rows() -> ModuleType:
    return importlib.import_module("wan.modules.kernels.layer_norm")
