"""TeaCache (Liu et al. 2024): skip the block stack where the time embedding has hardly moved.

The embedding depends on the time steps alone, so the whole plan is known before the first step.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

WARMUP_STEPS = 5
"""Steps at the beginning that always compute, and do not accumulate."""


def teacache_plan(e0: Sequence[Tensor], coefficients: Sequence[float], threshold: float) -> tuple[bool, ...]:
    """For each step whether the blocks are computed (True) or their last residual is used again.

    `e0`: the 6 x D time projection of every step. The polynomial (highest power first) of the relative change is
    summed up until it reaches `threshold`; then the blocks are computed and the sum starts at 0. A threshold of 0
    computes every step.
    """
    polynomial = np.poly1d(coefficients)
    plan, total = [], 0.0
    for step, current in enumerate(e0):
        if threshold == 0 or step < WARMUP_STEPS:
            plan.append(True)
            continue
        previous = e0[step - 1]
        total += float(polynomial(((current - previous).abs().mean() / previous.abs().mean()).item()))
        plan.append(total >= threshold)
        total = 0.0 if plan[-1] else total
    return tuple(plan)
