"""TeaCache (Liu et al. 2024): skip the blocks while the time embedding hardly changes.

The embedding depends on the time steps only, so the plan is known before the first step.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

WARMUP_STEPS = 5
"""Steps at the start that are always computed and do not accumulate change."""


def teacache_plan(
    timestep_projs: Sequence[Tensor], coefficients: Sequence[float], threshold: float
) -> tuple[bool, ...]:
    """For each step, whether the blocks are computed (True) or their last residual is reused (False).

    `timestep_projs` is the 6 x D projection of each step. The polynomial (highest power first) of its relative L1
    change is accumulated; at `threshold` the blocks are computed and the sum is reset. A threshold of 0 computes every
    step.
    """
    polynomial = np.poly1d(coefficients)
    plan, total = [], 0.0
    for step, current in enumerate(timestep_projs):
        if threshold == 0 or step < WARMUP_STEPS:
            plan.append(True)
            continue
        previous = timestep_projs[step - 1]
        total += float(polynomial(((current - previous).abs().mean() / previous.abs().mean()).item()))
        plan.append(total >= threshold)
        total = 0.0 if plan[-1] else total
    return tuple(plan)
