"""Muon (Jordan et al. 2024) for matrices and convolution kernels, Adam for all other parameters, in one optimizer.

`torch.optim.Muon` supports matrices only; here a convolution kernel is treated as the matrix of its flattened filters,
and both update rules share one state dict.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Updates matrices with their orthogonalized momentum, and with Adam vectors and parameters named by `use_adam`.

    `optimizer_step` sets each group's "lr" to its "peak" times the factor of the schedule.
    """

    def __init__(
        self,
        module: nn.Module,
        use_adam: Callable[[str], bool],
        muon_lr: float = 0.02,
        adam_lr: float = 2e-3,
        momentum: float = 0.95,
    ) -> None:
        named = list(module.named_parameters())
        matrices = [p for name, p in named if _is_matrix(p) and not use_adam(name)]
        others = [p for name, p in named if not _is_matrix(p) or use_adam(name)]
        groups = [
            {"params": matrices, "peak": muon_lr, "lr": 0.0, "momentum": momentum, "matrices": True},
            {"params": others, "peak": adam_lr, "lr": 0.0, "betas": (0.9, 0.98), "matrices": False},
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            update = self._muon_step if group["matrices"] else self._adam_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)

    def _muon_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - group["momentum"])
        nesterov = torch.lerp(gradient, momentum, group["momentum"])
        update = orthogonalize(nesterov.flatten(1))
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _adam_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(steps=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["steps"] += 1
        beta1, beta2 = group["betas"]
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient.square(), 1 - beta2)
        first, second = state["first"] / (1 - beta1 ** state["steps"]), state["second"] / (1 - beta2 ** state["steps"])
        parameter.sub_(group["lr"] * first / (second.sqrt() + 1e-8))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix X to about 1 with the quintic Newton-Schulz iteration.

    The polynomials are accumulated on the smaller of X X^T and X^T X and applied to X once.
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
