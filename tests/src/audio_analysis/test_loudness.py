"""Every voice is brought to the same loudness, unless it has none."""

import numpy as np
import pyloudnorm
import pytest

from src.audio_analysis.loudness import normalise


def noise(seconds: float, level: float, rate: int = 16000) -> np.ndarray:
    return level * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("level", [1e-3, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("target", [-23.0, -16.0])
def test_the_result_has_the_target_loudness(level: float, target: float) -> None:
    loud_N = normalise(noise(2, level), 16000, target)
    assert loud_N.dtype == np.float64
    assert pyloudnorm.Meter(16000).integrated_loudness(loud_N) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("waveform_N", [noise(0.39, 0.3), np.zeros(32000), np.zeros(0), noise(1, 1e-4)])
def test_what_has_no_loudness_is_left_alone(waveform_N: np.ndarray) -> None:
    np.testing.assert_array_equal(normalise(waveform_N, 16000), waveform_N)


def test_the_shortest_that_can_be_metered() -> None:
    short_N = noise(0.4, 0.3)
    assert not np.allclose(normalise(short_N, 16000), short_N)
