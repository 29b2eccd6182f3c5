"""MagCache's plan."""

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


def falling(ratio: float, steps: int = 20) -> MagCacheRatios:
    """Magnitude falls by the same ratio in every step."""
    return MagCacheRatios(ratios=(ratio,) * (steps - 1), shift=3.0)


def drawn(recorded: MagCacheRatios, threshold: float) -> str:
    """The plan of the recorded steps: x computed, . left out."""
    return "".join(".x"[computed] for computed in magcache_plan(list(recorded_times(recorded)), recorded, threshold))


def test_every_model_is_calibrated() -> None:
    assert set(MODELS) == set(WAN_CONFIGS)


def test_a_threshold_of_zero_computes_every_step() -> None:
    assert drawn(falling(1.0), 0.0) == "x" * 20


def test_the_first_share_is_computed_and_then_so_many_in_a_row_are_left_out() -> None:
    assert drawn(falling(1.0), 0.1) == "xxxx" + ("." * MAX_SKIP_STEPS + "x") * 3 + "."


def test_errors_of_the_product_of_ratios_add_up() -> None:
    # 1 - 0.9 = 0.1 is below 0.2; with 1 - 0.81 = 0.19 it is not. Where magnitude grows it is the same.
    assert drawn(falling(0.9), 0.2) == "xxxx" + ".x" * 8
    assert drawn(falling(0.9), 0.3) == "xxxx" + "..x" * 5 + "."
    assert drawn(falling(1.1), 0.3) == "xxxx" + ".x" * 8
    assert drawn(falling(0.9), 0.1 - 1e-9) == "x" * 20


@pytest.mark.parametrize("recorded", CALIBRATED)
def test_the_recorded_steps_have_the_recorded_ratios(recorded: MagCacheRatios) -> None:
    np.testing.assert_allclose(magnitude_ratios(list(recorded_times(recorded)), recorded), recorded.ratios, rtol=1e-9)


@pytest.mark.parametrize("recorded", CALIBRATED)
@pytest.mark.parametrize(("steps", "shift"), [(40, 7.0), (20, 3.0), (MAGCACHE_MIN_STEPS, 11.0)])
def test_ratios_of_other_steps_multiply_to_the_same_magnitude(
    recorded: MagCacheRatios, steps: int, shift: float
) -> None:
    times = timesteps(steps, shift)[:-1].tolist()
    ratios = magnitude_ratios(times, recorded)
    assert len(ratios) == steps - 1
    np.testing.assert_allclose(np.prod(ratios), magnitude_ratios([times[0], times[-1]], recorded)[0])


def test_beyond_the_last_recorded_time_the_magnitude_goes_on_as_it_was_going() -> None:
    recorded = MagCacheRatios(ratios=(0.9, 0.8), shift=1.0, last_time=400.0)
    times = [1000.0, 700.0, 400.0, 100.0]
    np.testing.assert_allclose(magnitude_ratios(times, recorded), [0.9, 0.8, 0.8])


def test_what_the_models_leave_out() -> None:
    """Of 40 steps with the published threshold."""
    computed = {
        name: sum(magcache_plan(timesteps(40, config.turbo.shift["480"])[:-1].tolist(), ratios, 0.12))
        for name, config in WAN_CONFIGS.items()
        for ratios in [config.magcache_ratios["480"]]
    }
    assert computed["multitalk-14B"] == 18
    assert computed["multitalk-puppet"] == 15
