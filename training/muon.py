"""Muon (Jordan et al. 2024) for weights that are matrices or kernels, Adam for the rest, as one optimiser.

`torch.optim.Muon` takes matrices only; here a convolution's kernel is the matrix of its flattened filters, and both
rules are one optimiser with one state to save.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of every kernel.

    `apart` names the parameters that Adam moves, as it does vectors. `descend` sets each group's
    "lr" to its "peak" times the schedule's share.
    """

    def __init__(
        self,
        module: nn.Module,
        apart: Callable[[str], bool],
        matrix_peak: float = 0.02,
        other_peak: float = 2e-3,
        momentum: float = 0.95,
    ) -> None:
        named = list(module.named_parameters())
        matrices = [p for name, p in named if _is_matrix(p) and not apart(name)]
        others = [p for name, p in named if not _is_matrix(p) or apart(name)]
        groups = [
            {"params": matrices, "peak": matrix_peak, "lr": 0.0, "momentum": momentum, "matrices": True},
            {"params": others, "peak": other_peak, "lr": 0.0, "betas": (0.9, 0.98), "matrices": False},
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay."""
        for group in self.param_groups:
            move = self._move_matrix if group["matrices"] else self._move_other
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move(parameter, parameter.grad, group)

    def _move_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        average = state.setdefault("momentum", torch.zeros_like(parameter))
        average.lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, average, group["momentum"])
        update = orthogonalize(ahead.flatten(1))
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _move_other(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(steps=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["steps"] += 1
        one, two = group["betas"]
        state["first"].lerp_(gradient, 1 - one)
        state["second"].lerp_(gradient.square(), 1 - two)
        first, second = state["first"] / (1 - one ** state["steps"]), state["second"] / (1 - two ** state["steps"])
        parameter.sub_(group["lr"] * first / (second.sqrt() + 1e-8))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Singular values of a matrix to about 1 by Newton and Schulz's iteration of fifth order.

    Its steps commute with X X^T, so that they are taken on that small square instead of on X.
    """
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    square = x @ x.mT if wide else x.mT @ x
    identity = torch.eye(len(square), device=x.device)
    product = identity
    for _ in range(_ITERATIONS):
        polynomial = a * identity + b * square + c * square @ square
        product = polynomial @ product
        square = polynomial @ square @ polynomial
    return product @ x if wide else x @ product


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1 and parameter.ndim != 3
