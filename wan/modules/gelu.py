"""Tanh approximation of GELU (Hendrycks & Gimpel 2016) for the hidden layer of a feed-forward network.

cuBLASLt could apply it in the epilogue of the matrix product (`torch._addmm_activation`), but to the float32 sums: in
bfloat16 the input is then not rounded first, as in the reference, and 28 % of the results differ.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.kernels.dispatch import use_triton

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715


class TanhGELU(nn.Module):
    """GELU (tanh approximation) that may overwrite its input."""

    def forward(self, x: Tensor) -> Tensor:
        if use_triton(x) and x.is_contiguous():
            from wan.modules.kernels import gelu as kernels

            return kernels.gelu_(x)
        return eager_gelu(x)


def eager_gelu(x: Tensor) -> Tensor:
    """`F.gelu`, or for float32 on the CPU without gradients the equal x * sigmoid(2u), which takes half the time.

    u = sqrt(2 / pi) (x + 0.044715 x^3), since (1 + tanh(u)) / 2 = sigmoid(2u).
    """
    if torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    two_u = torch.addcmul(x.new_full((), _SLOPE), x, x, value=_SLOPE * _CUBE).mul_(x)
    return x.mul_(two_u.sigmoid_())
