"""Enumeration and choice of offload plans."""

from dataclasses import replace

import pytest

from benchmarks.gpu.networks import random_models
from wan.checkpoint import Precision
from wan.configs import WAN_CONFIGS
from wan.offload.estimate import META, MemoryEstimate, WeightBytes, estimate_memory, measure_weights
from wan.offload.plan import OutOfMemoryPlanError, choose_plan, enumerate_plans, smallest
from wan.types import VideoSize

WEIGHTS = WeightBytes(transformer=50, blocks=(4,) * 10, text_encoder=30, image_encoder=3, vae=2)
ESTIMATE = MemoryEstimate(kv_cache=5, forward=10, vae=12, vae_offloaded=6)
LARGE_VAE = replace(ESTIMATE, vae=40)
"""A large image, for which the VAE has the highest peak."""


def test_plans_are_ordered_from_fastest_to_smallest() -> None:
    plans = enumerate_plans(WEIGHTS, ESTIMATE)
    assert [plan.name for plan in plans] == ["resident", "encoders leave"] + ["streamed"] * 10
    assert plans[0].peak == 50 + 35 + 5 + 12
    assert plans[1].peak == 50 + 30
    assert plans[-1].peak == (50 - 40) + 30
    assert not any(plan.offload_vae_cache for plan in plans), "the text encoder has a higher peak than the VAE"


def test_vae_cache_is_offloaded_before_blocks_are_streamed() -> None:
    plans = enumerate_plans(WEIGHTS, LARGE_VAE)
    assert [(plan.name, plan.offload_vae_cache) for plan in plans[:4]] == [
        ("resident", False),
        ("encoders leave", False),
        ("encoders leave", True),
        ("streamed", False),
    ]
    assert plans[1].peak == 50 + 5 + 2 + 40
    assert plans[2].peak == 50 + 30
    assert str(replace(plans[2], peak=3 * 10**9)) == (
        "encoders leave, 10 resident blocks, VAE in slices of time, about 3.0 GB"
    )


@pytest.mark.parametrize(
    ("free", "name", "num_resident"), [(113, "resident", 10), (112, "encoders leave", 10), (60, "streamed", 3)]
)
def test_fastest_plan_that_fits_is_chosen(free: int, name: str, num_resident: int) -> None:
    plan = choose_plan(enumerate_plans(WEIGHTS, ESTIMATE), free, margin=0.1)
    assert (plan.name, plan.num_resident_blocks) == (name, num_resident)


def test_max_resident_blocks_bounds_every_plan() -> None:
    plans = enumerate_plans(WEIGHTS, ESTIMATE, max_resident_blocks=3)
    assert [plan.num_resident_blocks for plan in plans] == [3, 3, 2, 1, 0]
    assert {plan.name for plan in plans} == {"streamed"}
    assert plans[0].keep_encoders
    assert plans[0].peak == (50 - 7 * 4) + 35 + 5 + (2 * 4 + 10)


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
