"""Normalisation, modulation and gates, with the reference's rounding points."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) in float32 over the last axis, rounded to the dtype of x, times a weight (Zhang 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 and rounded to the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def modulate(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """x (1 + scale) + shift in float32, rounded to the dtype of x (adaLN, Peebles & Xie 2023)."""
    return torch.addcmul(shift_BD[:, None], x_BLD.float(), 1 + scale_BD[:, None]).to(x_BLD.dtype)


def gated_sum(x_BLD: Tensor, y_BLD: Tensor, gate_BD: Tensor) -> Tensor:
    """x + gate * y in float32, rounded to the dtype of x."""
    return torch.addcmul(x_BLD.float(), y_BLD.float(), gate_BD[:, None]).to(x_BLD.dtype)
