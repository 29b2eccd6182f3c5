"""A few optimizer steps on one batch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from training.muon import Muon
from training.training_loop import step_generator

LossOf = Callable[[np.random.Generator, torch.Generator], tuple[Tensor, dict[str, float]]]


def overfit(optimizer: Muon, loss_of: LossOf, steps: int = 8) -> tuple[list[float], dict[str, float]]:
    """The loss of every step, all with the same noise and the peak learning rate, and the last values to log."""
    losses: list[float] = []
    metrics: dict[str, float] = {}
    for _ in range(steps):
        loss, metrics = loss_of(np.random.default_rng(1), step_generator(0, 1))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"]
        optimizer.step()
    return losses, metrics
