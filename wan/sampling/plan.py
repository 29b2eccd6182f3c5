"""What each step of a chunk runs; known before the first one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wan.configs.schema import ModelConfig
from wan.sampling.magcache import magcache_plan
from wan.sampling.options import SamplingOptions
from wan.sampling.schedule import timesteps
from wan.sampling.teacache import teacache_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The passes whose predictions a step combines, and whether the blocks are computed for them.

    Where they are not, each pass uses the residual that it had in the last step which was.
    """

    passes: tuple[str, ...]
    computed: bool

    @property
    def evaluations(self) -> int:
        """How often the stack of blocks is run."""
        return len(self.passes) if self.computed else 0


def plan_chunk(config: ModelConfig, options: SamplingOptions, e0: Sequence[Tensor]) -> tuple[Step, ...]:
    """The steps of a chunk; `e0` is the 6 x D time projection of every step."""
    return plan_steps(options.guider().passes, computed_steps(config, options, e0), options.guidance_reuse)


def computed_steps(config: ModelConfig, options: SamplingOptions, e0: Sequence[Tensor]) -> tuple[bool, ...]:
    """For each step whether its blocks are computed; what decides is the cache that the options name."""
    if options.cache == "magcache":
        times = timesteps(options.sampling_steps, options.shift)[:-1].tolist()
        return magcache_plan(times, config.magcache_ratios[options.size_class], options.magcache_thresh)
    coefficients = config.teacache_coefficients[options.size_class]
    return teacache_plan(e0, coefficients, options.teacache_thresh)


def plan_steps(passes: tuple[str, ...], computed: Sequence[bool], reuses_guidance: bool) -> tuple[Step, ...]:
    """The steps of a chunk: the passes of the guidance, and for each step whether a cache has it computed.

    Where guidance is reused, every other computed step of the second half has the conditional pass alone, and so have
    the steps that take over its residual.
    """
    steps: list[Step] = []
    alone = False
    for number, runs in enumerate(computed):
        if runs and 2 * number >= len(computed):
            alone = reuses_guidance and not alone
        steps.append(Step(passes=("cond",) if alone else passes, computed=runs))
    return tuple(steps)


def keeps_residual(plan: Sequence[Step], number: int) -> bool:
    """Whether the next step takes over the residuals of this one."""
    return number + 1 < len(plan) and not plan[number + 1].computed


def fraction_done(plan: Sequence[Step], steps: int) -> float:
    """How much of the plan the first `steps` are, 0..1, by evaluations of the blocks."""
    done = list(itertools.accumulate(step.evaluations for step in plan))
    return done[steps - 1] / done[-1]
