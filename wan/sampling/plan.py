"""Plan of the denoising steps of a chunk, known before the first step."""

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
    """The passes of a step, and whether their blocks are computed.

    If not, each pass reuses its residual of the last computed step.
    """

    passes: tuple[str, ...]
    computed: bool

    @property
    def evaluations(self) -> int:
        """Number of passes for which the blocks are run."""
        return len(self.passes) if self.computed else 0


def plan_chunk(config: ModelConfig, options: SamplingOptions, timestep_projs: Sequence[Tensor]) -> tuple[Step, ...]:
    """The steps of a chunk; `timestep_projs` is the 6 x D time projection of each step."""
    return plan_steps(options.guider().passes, computed_steps(config, options, timestep_projs), options.guidance_reuse)


def computed_steps(config: ModelConfig, options: SamplingOptions, timestep_projs: Sequence[Tensor]) -> tuple[bool, ...]:
    """For each step, whether its blocks are computed, as decided by the cache of the options."""
    if options.cache == "magcache":
        times = timesteps(options.sampling_steps, options.shift)[:-1].tolist()
        return magcache_plan(times, config.magcache_ratios[options.size_class], options.magcache_thresh)
    coefficients = config.teacache_coefficients[options.size_class]
    return teacache_plan(timestep_projs, coefficients, options.teacache_thresh)


def plan_steps(passes: tuple[str, ...], computed: Sequence[bool], reuse_guidance: bool) -> tuple[Step, ...]:
    """Combine the passes of the guider with the computed flags of a cache.

    With `reuse_guidance` every other computed step of the second half runs the conditional pass alone, and so do the
    skipped steps after it, which have no other residual.
    """
    steps: list[Step] = []
    cond_only = False
    for index, is_computed in enumerate(computed):
        if is_computed and 2 * index >= len(computed):
            cond_only = reuse_guidance and not cond_only
        steps.append(Step(passes=("cond",) if cond_only else passes, computed=is_computed))
    return tuple(steps)


def keeps_residual(plan: Sequence[Step], step: int) -> bool:
    """Whether the step after `step` (an index) reuses its residuals."""
    return step + 1 < len(plan) and not plan[step + 1].computed


def fraction_done(plan: Sequence[Step], num_steps: int) -> float:
    """Fraction of the plan's block evaluations in its first `num_steps` steps, 0..1."""
    done = list(itertools.accumulate(step.evaluations for step in plan))
    return done[num_steps - 1] / done[-1]
