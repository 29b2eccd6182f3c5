"""Waveforms are normalized to the same loudness, except silent and very short ones."""

import numpy as np
import pyloudnorm
import pytest

from src.audio_analysis.loudness import measure, normalize


def noise(seconds: float, level: float, rate: int = 16000) -> np.ndarray:
    return level * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("level", [1e-3, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("target", [-23.0, -16.0])
def test_result_has_the_target_loudness(level: float, target: float) -> None:
    loud_N = normalize(noise(2, level), 16000, target)
    assert loud_N.dtype == np.float32
    assert pyloudnorm.Meter(16000).integrated_loudness(loud_N.astype(float)) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("waveform_N", [noise(0.39, 0.3), np.zeros(32000), np.zeros(0), noise(1, 1e-4)])
def test_silent_and_short_waveforms_are_unchanged(waveform_N: np.ndarray) -> None:
    np.testing.assert_array_equal(normalize(waveform_N, 16000), waveform_N)


def test_shortest_measurable_waveform() -> None:
    short_N = noise(0.4, 0.3)
    assert not np.allclose(normalize(short_N, 16000), short_N)


@pytest.mark.parametrize("seconds", [41.05, 81.3, 120.449, 130.0])
def test_segmented_measurement_equals_whole_measurement(seconds: float) -> None:
    long_N = noise(seconds, 0.1)
    long_N[: 16000 * 10] *= 1e-4  # below the absolute gate
    long_N[16000 * 20 : 16000 * 35] *= 0.05  # below the relative gate
    long_N[16000 * 40 :] *= np.linspace(0, 2, len(long_N) - 16000 * 40, dtype=np.float32)
    assert measure(long_N, 16000) == pytest.approx(pyloudnorm.Meter(16000).integrated_loudness(long_N), abs=1e-4)


def test_long_silence() -> None:
    long_N = np.zeros(16000 * 90, np.float32)
    assert measure(long_N, 16000) == -np.inf
    long_N[16000 * 80 :] = noise(10, 0.1)
    assert normalize(long_N, 16000)[16000 * 80 :].std() == pytest.approx(
        normalize(long_N[16000 * 79 :], 16000)[16000:].std(), rel=1e-3
    )
