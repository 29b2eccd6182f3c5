"""Enumeration and choice of offload plans."""

from dataclasses import replace

import pytest

from benchmarks.gpu.networks import random_models
from wan.checkpoint import Precision
from wan.configs import WAN_CONFIGS
from wan.offload.estimate import META, MemoryEstimate, WeightBytes, estimate_memory, measure_weights
from wan.offload.plan import OffloadPlanner, OutOfMemoryPlanError, choose_plan, enumerate_plans, smallest
from wan.types import VideoSize

WEIGHTS = WeightBytes(transformer=50, blocks=(4,) * 10, text_encoder=30, image_encoder=3, vae=2)
ESTIMATE = MemoryEstimate(kv_cache=5, forward=10, vae=12, vae_offloaded=6)
SIZE = VideoSize(frames=81, height=64, width=64)
LARGE_VAE = replace(ESTIMATE, vae=40)
"""A large image, for which the VAE has the highest peak."""


def test_plans_are_ordered_from_fastest_to_slowest() -> None:
    plans = enumerate_plans(WEIGHTS, ESTIMATE)
    streamed = range(9, -1, -1)
    assert [(plan.name, plan.num_resident_blocks) for plan in plans] == [
        ("resident", 10),
        *(("streamed, encoders stay", resident) for resident in streamed),
        ("encoders leave", 10),
        *(("streamed", resident) for resident in streamed),
    ]
    peaks = {(plan.name, plan.num_resident_blocks): plan.peak for plan in plans}
    assert peaks["resident", 10] == 50 + 35 + 5 + 12
    assert peaks["streamed, encoders stay", 0] == (50 - 40) + 35 + 5 + (2 * 4 + 10)
    assert peaks["encoders leave", 10] == 50 + 30
    assert peaks["streamed", 0] == (50 - 40) + 30
    assert not any(plan.offload_vae_cache for plan in plans), "no plan's peak is that of the VAE alone"


def test_vae_cache_is_offloaded_after_everything_else() -> None:
    """At every number of resident blocks, and only where that needs less than every other plan."""
    plans = enumerate_plans(WEIGHTS, LARGE_VAE)
    cached = [plan for plan in plans if not plan.offload_vae_cache]
    assert plans[: len(cached)] == cached
    assert [plan.num_resident_blocks for plan in cached] == 2 * [*range(10, -1, -1)]
    peaks = {plan.key: plan.peak for plan in cached}
    assert peaks[10, False, False] == 50 + 5 + 2 + 40
    assert min(peaks.values()) == (50 - 40) + 5 + 2 + 40
    assert {plan.num_resident_blocks: plan.peak for plan in plans[len(cached) :]} == {
        resident: 10 + 4 * resident + 30 for resident in range(4, -1, -1)
    }
    assert str(replace(plans[-1], peak=3 * 10**9)) == (
        "streamed, 0 resident blocks, VAE in slices of time, about 3.0 GB"
    )


@pytest.mark.parametrize(
    ("free", "name", "num_resident"),
    [(113, "resident", 10), (112, "streamed, encoders stay", 8), (60, "streamed", 3)],
)
def test_fastest_plan_that_fits_is_chosen(free: int, name: str, num_resident: int) -> None:
    plan = choose_plan(enumerate_plans(WEIGHTS, ESTIMATE), free, margin=0.1)
    assert (plan.name, plan.num_resident_blocks) == (name, num_resident)


@pytest.mark.parametrize(
    ("budget", "current", "expected"),
    [
        (112, 5, 5),  # a few more blocks would fit
        (112, 8, 8),
        (95, 8, 4),  # the current plan does not fit
        (113, 5, 10),  # everything fits
        (60, 8, 3),  # the encoders must leave
    ],
)
def test_current_plan_is_kept_while_it_fits(
    monkeypatch: pytest.MonkeyPatch, budget: int, current: int, expected: int
) -> None:
    plans = enumerate_plans(WEIGHTS, ESTIMATE)
    planner = object.__new__(OffloadPlanner)
    monkeypatch.setattr(OffloadPlanner, "plans", lambda *_: plans)
    plan = next(plan for plan in plans if plan.key == (current, True, False))
    assert planner.estimate_and_choose(SIZE, 1, budget, plan).num_resident_blocks == expected
    assert planner.estimate_and_choose(SIZE, 1, None, plan).name == "resident"


@pytest.mark.parametrize(("precision", "resident"), [("fp8", 9), ("bf16", 9)])
def test_plan_of_a_24_gb_card_keeps_the_vae_cache(precision: Precision, resident: int) -> None:
    """The copies of the VAE's cache would take longer than those of all streamed blocks."""
    config = WAN_CONFIGS["multitalk-14B"]
    weights = measure_weights(random_models(config, META, precision))
    estimate = estimate_memory(config, VideoSize(frames=81, height=448, width=896), num_persons=1)
    plan = choose_plan(enumerate_plans(weights, estimate), int(23.5e9), margin=0.1)
    assert (plan.num_resident_blocks, plan.offload_vae_cache) == (resident, False), plan


def test_max_resident_blocks_bounds_every_plan() -> None:
    plans = enumerate_plans(WEIGHTS, ESTIMATE, max_resident_blocks=3)
    assert [(plan.name, plan.num_resident_blocks) for plan in plans] == [
        (name, resident) for name in ("streamed, encoders stay", "streamed") for resident in (3, 2, 1, 0)
    ]


def test_error_names_free_and_needed_memory() -> None:
    weights = replace(WEIGHTS, text_encoder=30 * 10**9)
    with pytest.raises(OutOfMemoryPlanError, match=r"8\.0 GB of the device's memory are free.*needs 33\.0 GB"):
        choose_plan(enumerate_plans(weights, ESTIMATE), 8 * 10**9, margin=0.1)


def test_streaming_buffers_count_while_blocks_run() -> None:
    small_text = replace(WEIGHTS, text_encoder=0)
    assert enumerate_plans(small_text, ESTIMATE)[-1].peak == (50 - 40) + 2 * 4 + 5 + 10


def test_vae_does_not_limit_the_smallest_plan_of_the_14b_model() -> None:
    """Tiled VAE decoding, an approximation, could not lower the smallest plan's peak."""
    config = WAN_CONFIGS["multitalk-14B"]
    sizes = [VideoSize(frames=81, height=height, width=width) for height, width in ((448, 896), (704, 1280))]
    estimates = [estimate_memory(config, size, num_persons=1) for size in sizes]
    precisions: tuple[Precision, ...] = ("bf16", "fp8")
    for precision in precisions:
        weights = measure_weights(random_models(config, META, precision))
        for estimate in estimates:
            without_vae = replace(estimate, vae=0, vae_offloaded=0)
            least, least_without_vae = (
                smallest(enumerate_plans(weights, each)).peak for each in (estimate, without_vae)
            )
            assert least == least_without_vae
