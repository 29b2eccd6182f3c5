"""Plans of TeaCache."""

import torch

from wan.sampling.teacache import WARMUP_STEPS, teacache_plan

IDENTITY = (1.0, 0.0)
MOVING = [torch.full((1, 6, 8), 1.0 + 0.1 * i) for i in range(20)]


def test_a_threshold_of_zero_computes_every_step() -> None:
    assert teacache_plan([torch.ones(1, 6, 8)] * 20, (0.0,), 0.0) == (True,) * 20


def test_the_first_steps_always_compute() -> None:
    plan = teacache_plan(MOVING, IDENTITY, 1e9)
    assert plan == (True,) * WARMUP_STEPS + (False,) * (20 - WARMUP_STEPS)


def test_changes_accumulate_to_the_threshold() -> None:
    plan = teacache_plan(MOVING, IDENTITY, 0.12)
    # Relative changes 0.0714, 0.0667, ... from step 5 on: two of them reach the threshold, later three.
    assert plan[WARMUP_STEPS : WARMUP_STEPS + 6] == (False, True, False, True, False, False)
