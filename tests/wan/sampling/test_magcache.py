"""Plans of MagCache."""

import numpy as np
import pytest

from wan.configs import WAN_CONFIGS
from wan.configs.schema import MagCacheRatios
from wan.sampling.magcache import MAGCACHE_MIN_STEPS, MAX_SKIP_STEPS, magcache_plan, magnitude_ratios, recorded_times
from wan.sampling.schedule import timesteps

CALIBRATED = [
    pytest.param(ratios, id=f"{name} {size_class}")
    for name, config in WAN_CONFIGS.items()
    for size_class, ratios in config.magcache_ratios.items()
]
MODELS = [name for name, config in WAN_CONFIGS.items() if set(config.magcache_ratios) == set(config.buckets)]


def constant_ratio(ratio: float, steps: int = 20) -> MagCacheRatios:
    """The same ratio at each step."""
    return MagCacheRatios(ratios=(ratio,) * (steps - 1), shift=3.0)


def plan_string(recorded: MagCacheRatios, threshold: float) -> str:
    """The plan for the recorded steps: x is computed, . is skipped."""
    return "".join(".x"[computed] for computed in magcache_plan(list(recorded_times(recorded)), recorded, threshold))


def test_every_model_is_calibrated() -> None:
    assert set(MODELS) == set(WAN_CONFIGS)


def test_a_threshold_of_zero_computes_every_step() -> None:
    assert plan_string(constant_ratio(1.0), 0.0) == "x" * 20


def test_first_steps_are_computed_and_skips_in_a_row_are_limited() -> None:
    assert plan_string(constant_ratio(1.0), 0.1) == "xxxx" + ("." * MAX_SKIP_STEPS + "x") * 3 + "."


def test_errors_of_the_product_of_ratios_accumulate() -> None:
    # 1 - 0.9 = 0.1 is below 0.2; 0.1 + (1 - 0.81) = 0.29 is not. Growing magnitudes count the same.
    assert plan_string(constant_ratio(0.9), 0.2) == "xxxx" + ".x" * 8
    assert plan_string(constant_ratio(0.9), 0.3) == "xxxx" + "..x" * 5 + "."
    assert plan_string(constant_ratio(1.1), 0.3) == "xxxx" + ".x" * 8
    assert plan_string(constant_ratio(0.9), 0.1 - 1e-9) == "x" * 20


@pytest.mark.parametrize("recorded", CALIBRATED)
def test_ratios_at_the_recorded_steps_are_the_recorded_ones(recorded: MagCacheRatios) -> None:
    np.testing.assert_allclose(magnitude_ratios(list(recorded_times(recorded)), recorded), recorded.ratios, rtol=1e-9)


@pytest.mark.parametrize("recorded", CALIBRATED)
@pytest.mark.parametrize(("steps", "shift"), [(40, 7.0), (20, 3.0), (MAGCACHE_MIN_STEPS, 11.0)])
def test_ratios_of_other_steps_have_the_same_product(recorded: MagCacheRatios, steps: int, shift: float) -> None:
    times = timesteps(steps, shift)[:-1].tolist()
    ratios = magnitude_ratios(times, recorded)
    assert len(ratios) == steps - 1
    np.testing.assert_allclose(np.prod(ratios), magnitude_ratios([times[0], times[-1]], recorded)[0])


def test_magnitude_is_extrapolated_after_the_last_recorded_time() -> None:
    recorded = MagCacheRatios(ratios=(0.9, 0.8), shift=1.0, last_time=400.0)
    times = [1000.0, 700.0, 400.0, 100.0]
    np.testing.assert_allclose(magnitude_ratios(times, recorded), [0.9, 0.8, 0.8])


def test_number_of_computed_steps_of_the_models() -> None:
    """Out of 40 steps, with the published threshold."""
    computed = {
        name: sum(magcache_plan(timesteps(40, config.turbo.shift["480"])[:-1].tolist(), ratios, 0.12))
        for name, config in WAN_CONFIGS.items()
        for ratios in [config.magcache_ratios["480"]]
    }
    assert computed["multitalk-14B"] == 18
    assert computed["multitalk-puppet"] == 15
