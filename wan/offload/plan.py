"""Offload plans: where each network is kept so that a request fits into device memory. Sizes are in bytes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from wan.checkpoint import Models
from wan.configs.schema import ModelConfig
from wan.offload.estimate import MemoryEstimate, WeightBytes, estimate_memory, measure_weights
from wan.types import VideoSize

GIGABYTE = 1e9
MARGIN = 0.1
"""Share of a plan's peak kept free on top of it for what the estimate does not count: workspaces, fragmentation."""
MIN_REDUCTION = 0.9
"""After an out-of-memory error the next plan may need at most this share of the last one's peak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadPlan:
    """Where the networks are kept during a request.

    The first `num_resident_blocks` transformer blocks stay on the device, the others are streamed. `keep_encoders`:
    text encoder, image encoder and VAE stay on the device; otherwise each is moved there only while it runs.
    `offload_vae_cache`: the VAE's feature cache and the decoded frames are kept in host memory.
    """

    name: str
    num_resident_blocks: int
    keep_encoders: bool
    offload_vae_cache: bool
    peak: int

    def __str__(self) -> str:
        """The value of the metric `memory_plan`."""
        cache = "VAE in slices of time" * self.offload_vae_cache
        parts = [self.name, f"{self.num_resident_blocks} resident blocks", cache]
        return ", ".join([*filter(None, parts), f"about {self.peak / GIGABYTE:.1f} GB"])

    @property
    def key(self) -> tuple[int, bool, bool]:
        """What distinguishes two plans, apart from name and peak."""
        return self.num_resident_blocks, self.keep_encoders, self.offload_vae_cache

    @property
    def kind(self) -> tuple[str, bool]:
        """Plans of one kind differ in how many blocks are streamed."""
        return self.name, self.offload_vae_cache


class OutOfMemoryPlanError(ValueError):
    """No plan fits into the free memory."""


class OffloadPlanner:
    """Chooses the plans of one set of networks; the estimate for each video size is computed once."""

    def __init__(self, config: ModelConfig, models: Models, max_resident_blocks: int | None = None) -> None:
        """`max_resident_blocks`: upper bound of transformer blocks on the device; None for no bound."""
        self.models = models
        self.max_resident_blocks = max_resident_blocks
        self._estimate = functools.cache(
            functools.partial(estimate_memory, config, transformer=models.transformer),
        )

    def estimate_and_choose(
        self, size: VideoSize, num_persons: int, budget: int | None, current: OffloadPlan | None = None
    ) -> OffloadPlan:
        """The plan for a request that fits into `budget` bytes of the device; None for no limit.

        The fastest, or the `current` one if that differs from it in the number of streamed blocks only and still fits.
        Raises `OutOfMemoryPlanError` if none fits.
        """
        plans = self.plans(size, num_persons)
        if budget is None:
            return plans[0]
        best = choose_plan(plans, budget, MARGIN)
        kept = next((plan for plan in plans if current is not None and plan.key == current.key), best)
        return kept if kept.kind == best.kind and fits(kept, budget, MARGIN) else best

    def plans(self, size: VideoSize, num_persons: int) -> list[OffloadPlan]:
        """Every plan for a request, from the fastest to the one that needs least memory."""
        return enumerate_plans(
            measure_weights(self.models), self._estimate(size, num_persons), self.max_resident_blocks
        )

    def stage_peaks(self, plan: OffloadPlan, size: VideoSize, num_persons: int) -> dict[str, int]:
        """Peak of the bytes on the device in each stage of a request under a plan."""
        return stage_bytes(measure_weights(self.models), self._estimate(size, num_persons), *plan.key)

    def next_smaller(self, current: OffloadPlan, size: VideoSize, num_persons: int) -> OffloadPlan | None:
        """The first plan whose peak is at most `MIN_REDUCTION` of the current one's; None if there is none."""
        plans = self.plans(size, num_persons)
        peak = next((plan.peak for plan in plans if plan.key == current.key), plans[0].peak)
        return next((plan for plan in plans if plan.peak <= MIN_REDUCTION * peak), None)


def enumerate_plans(
    weights: WeightBytes, estimate: MemoryEstimate, max_resident_blocks: int | None = None
) -> list[OffloadPlan]:
    """Every plan with its peak, from the fastest to the one that needs least memory.

    A streamed block is copied while the block before it computes, which takes longer. The encoders are copied while
    nothing computes, so blocks are streamed first. Offloading the VAE's cache copies several GB for every latent frame
    of a chunk: it comes last, and only where that needs less than every other plan.
    """
    num_blocks = len(weights.blocks)
    max_resident = num_blocks if max_resident_blocks is None else min(max_resident_blocks, num_blocks)

    def make(offload: bool, keep: bool, resident: int) -> OffloadPlan:
        return OffloadPlan(
            name=plan_name(resident < num_blocks, keep),
            num_resident_blocks=resident,
            keep_encoders=keep,
            offload_vae_cache=offload,
            peak=peak_bytes(weights, estimate, resident, keep, offload),
        )

    placements = [*product((True, False), range(max_resident, -1, -1))]
    plans = [make(False, *placement) for placement in placements]
    least = smallest(plans).peak
    return plans + [plan for plan in (make(True, *placement) for placement in placements) if plan.peak < least]


def plan_name(streamed: bool, keep_encoders: bool) -> str:
    """What an operator reads."""
    if streamed:
        return "streamed, encoders stay" if keep_encoders else "streamed"
    return "resident" if keep_encoders else "encoders leave"


def peak_bytes(
    weights: WeightBytes,
    estimate: MemoryEstimate,
    num_resident_blocks: int,
    keep_encoders: bool,
    offload_vae_cache: bool = False,
) -> int:
    """Maximum over the stages of a request of the bytes on the device."""
    return max(stage_bytes(weights, estimate, num_resident_blocks, keep_encoders, offload_vae_cache).values())


def stage_bytes(
    weights: WeightBytes,
    estimate: MemoryEstimate,
    num_resident_blocks: int,
    keep_encoders: bool,
    offload_vae_cache: bool = False,
) -> dict[str, int]:
    """Peak of the bytes on the device in each stage: encoding prompts, conditioning, denoising, decoding."""
    streamed = weights.blocks[num_resident_blocks:]
    slots = 2 * max(streamed, default=0)  # allocated only while the blocks run
    always = weights.transformer - sum(streamed)
    text, image, vae = weights.text_encoder, weights.image_encoder, weights.vae
    if keep_encoders:
        always += text + image + vae
        text = image = vae = 0
    vae += estimate.vae_offloaded if offload_vae_cache else estimate.vae
    clip = always + estimate.kv_cache
    return {
        "prepare": always + max(text, slots),
        "condition": clip + max(vae, slots + image),
        "denoise": clip + slots + estimate.forward,
        "decode": clip + vae,
    }


def host_bytes(weights: WeightBytes, plan: OffloadPlan) -> int:
    """Bytes of the weights that a plan keeps in host memory."""
    encoders = 0 if plan.keep_encoders else weights.text_encoder + weights.image_encoder + weights.vae
    return sum(weights.blocks[plan.num_resident_blocks :]) + encoders


def choose_plan(plans: Sequence[OffloadPlan], free: int, margin: float) -> OffloadPlan:
    """The first plan whose peak plus the share `margin` fits into `free` bytes.

    Raises `OutOfMemoryPlanError` with both numbers if not even the smallest does.
    """
    for plan in plans:
        if fits(plan, free, margin):
            return plan
    plan = smallest(plans)
    raise OutOfMemoryPlanError(
        f"{free / GIGABYTE:.1f} GB of the device's memory are free; the smallest plan ({plan.name}) needs "
        f"{plan.peak * (1 + margin) / GIGABYTE:.1f} GB for this size and number of persons"
    )


def fits(plan: OffloadPlan, free: int, margin: float) -> bool:
    """Whether the plan's peak plus the share `margin` fits into `free` bytes."""
    return plan.peak * (1 + margin) <= free


def smallest(plans: Sequence[OffloadPlan]) -> OffloadPlan:
    """The plan with the lowest peak."""
    return min(plans, key=lambda plan: plan.peak)
