"""The time steps of the flow ODE and its Euler step."""

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
"""Time runs from 1000 (noise) to 0 (video)."""


def timesteps(steps: int, shift: float) -> Tensor:
    """steps + 1 times from 1000 to 0, float32: linear ones, bent."""
    return torch.cat(
        (time_shift(torch.linspace(NUM_TRAIN_TIMESTEPS, 1, steps, dtype=torch.float32), shift), torch.zeros(1))
    )


def time_shift(times: Tensor, shift: float) -> Tensor:
    """t -> s t / (1 + (s - 1) t) for t from 0 to 1 (Esser et al. 2024), here from 0 to 1000."""
    tau = times / NUM_TRAIN_TIMESTEPS
    return NUM_TRAIN_TIMESTEPS * (shift * tau / (1 + (shift - 1) * tau))


def euler_step(x: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    """Follow the velocity (noise minus video) from `t` down to `t_next`."""
    return x - velocity * ((t - t_next) / NUM_TRAIN_TIMESTEPS)
