"""MagCache (Ma et al. 2025): skip the blocks while the magnitude of their residual hardly changes.

The ratios of magnitudes between steps are a property of the model and recorded once, so the plan is known before the
first step. One plan serves all passes: the published ratios of the two passes of Wan2.1 differ by less than 0.003.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wan.configs.schema import MagCacheRatios
from wan.sampling.schedule import NUM_TRAIN_TIMESTEPS, time_shift

RETENTION_RATIO = 0.2
"""Fraction of the steps, at the start, that are always computed."""
MAX_SKIP_STEPS = 4
"""Maximum number of consecutive skipped steps."""
MAGCACHE_MIN_STEPS = 10
"""With fewer steps, neighboring steps differ too much to skip any."""


def magcache_plan(times: Sequence[float], recorded: MagCacheRatios, threshold: float) -> tuple[bool, ...]:
    """For each step, whether the blocks are computed (True) or their last residual is reused (False).

    `times` are those of the steps, 1000 to 0. The product of the ratios since the last computed step is the relative
    magnitude; a step is skipped while the accumulated distance of these products from 1 is below `threshold`.
    """
    plan: list[bool] = []
    ratio, error, skips = 1.0, 0.0, 0
    for step, change in enumerate([1.0, *magnitude_ratios(times, recorded).tolist()]):
        if step < RETENTION_RATIO * len(times):
            plan.append(True)
            continue
        ratio, skips = ratio * change, skips + 1
        error += abs(1 - ratio)
        plan.append(error >= threshold or skips > MAX_SKIP_STEPS)
        if plan[-1]:
            ratio, error, skips = 1.0, 0.0, 0
    return tuple(plan)


def magnitude_ratios(times: Sequence[float], recorded: MagCacheRatios) -> NDArray[np.float64]:
    """Ratio of each step's magnitude to that of the step before, from the second step on, for any steps and shift.

    The recorded ratios give the log magnitude at the recorded times, which is interpolated linearly, and extrapolated
    linearly after the last recorded time.
    """
    known = recorded_times(recorded)
    magnitude = np.concatenate(([0.0], np.cumsum(np.log(recorded.ratios))))
    slope = (magnitude[-1] - magnitude[-2]) / (known[-1] - known[-2])
    known, magnitude = np.append(known, 0.0), np.append(magnitude, magnitude[-1] - slope * known[-1])
    ratios: NDArray[np.float64] = np.exp(np.diff(np.interp(np.array(times), known[::-1], magnitude[::-1])))
    return ratios


def recorded_times(recorded: MagCacheRatios) -> NDArray[np.float64]:
    """Times of the steps whose ratios were recorded."""
    steps = len(recorded.ratios) + 1
    linear = torch.linspace(NUM_TRAIN_TIMESTEPS, recorded.last_time, steps, dtype=torch.float64)
    return time_shift(linear, recorded.shift).numpy()
