"""Time steps and Euler step of the flow ODE."""

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
"""Time runs from 1000 (noise) to 0 (data)."""


def timesteps(steps: int, shift: float) -> Tensor:
    """steps + 1 times from 1000 to 0, float32: linearly spaced, then shifted."""
    return torch.cat(
        (time_shift(torch.linspace(NUM_TRAIN_TIMESTEPS, 1, steps, dtype=torch.float32), shift), torch.zeros(1))
    )


def time_shift(times: Tensor, shift: float) -> Tensor:
    """sigma -> s sigma / (1 + (s - 1) sigma) for sigma = t / 1000 (Esser et al. 2024, section 5.3.2)."""
    sigmas = times / NUM_TRAIN_TIMESTEPS
    return NUM_TRAIN_TIMESTEPS * (shift * sigmas / (1 + (shift - 1) * sigmas))


def euler_step(x: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    """One Euler step along the velocity (noise minus data) from `t` down to `t_next`."""
    return x - velocity * ((t - t_next) / NUM_TRAIN_TIMESTEPS)
