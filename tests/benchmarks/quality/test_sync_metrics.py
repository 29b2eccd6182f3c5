"""Sync metrics on synthetic signals with known results."""

import numpy as np
import pytest

from benchmarks.quality.sync_metrics import (
    MouthReading,
    best_lag,
    bootstrap_interval,
    correlation,
    mean_correlation,
    other_correlation,
    own_correlation,
    partial_correlation,
    shuffled_correlation,
    silent_opening,
)
from training.mouths import MouthCurve

FRAMES = 33


def voice(seed: int) -> MouthCurve:
    """A random smooth mouth curve, 0..1."""
    noise = np.random.default_rng(seed).random(FRAMES + 2)
    return np.convolve(noise, np.ones(3) / 3, mode="valid")


def reading(measured: MouthCurve, own: MouthCurve, other: MouthCurve | None = None, face: int = 0) -> MouthReading:
    return MouthReading(face=face, measured=measured, own=own, other=other, active=np.ones(len(own), bool))


def test_correlation_of_constants() -> None:
    assert correlation(voice(0), voice(0)) == pytest.approx(1)
    assert correlation(np.full(FRAMES, 0.3), voice(0)) == 0
    assert np.isnan(correlation(voice(0), np.zeros(FRAMES)))


@pytest.mark.parametrize("lag", [-5, -2, 0, 1, 4])
def test_best_lag(lag: int) -> None:
    late = [reading(np.roll(voice(seed), lag), voice(seed)) for seed in range(10)]
    assert best_lag(late) == lag
    assert own_correlation(late, lag) == pytest.approx(1)


def test_partial_correlation_ignores_turn_taking_and_detects_crosstalk() -> None:
    own, other = np.tile([1.0, 0.0], 50), np.tile([0.0, 1.0], 50)
    jitter = np.random.default_rng(0).normal(size=(2, 100)) * 0.2
    own, other = own + jitter[0], other + jitter[1]
    assert correlation(own, other) < -0.8  # alternating voices
    noise = np.random.default_rng(1).normal(size=100) * 0.02
    assert abs(partial_correlation(own + noise, other, own)) < 0.2
    assert partial_correlation(own + 0.3 * other + noise, other, own) > 0.9
    assert np.isnan(partial_correlation(own, 2 * own + 1, own))


def test_other_correlation_uses_frames_where_the_other_is_audible() -> None:
    own, other = voice(0), voice(1)
    half = np.arange(FRAMES) < FRAMES // 2
    quiet_other = np.where(half, other, 0)
    noise = np.random.default_rng(2).normal(size=FRAMES) * 0.01
    following = np.where(half, own, voice(3))  # wrong only while the other is silent
    assert abs(other_correlation([reading(following + noise, own, quiet_other)])) < 0.6
    assert other_correlation([reading(own + 0.5 * quiet_other + noise, own, quiet_other)]) > 0.95
    assert np.isnan(other_correlation([reading(own, own)]))


def test_shuffled_correlation_is_near_zero() -> None:
    good = [reading(voice(seed), voice(seed), face=seed % 2) for seed in range(40)]
    assert own_correlation(good) == pytest.approx(1)
    assert abs(shuffled_correlation(good)) < 0.1
    assert np.isnan(shuffled_correlation(good[:1]))


def test_mean_correlation_excludes_clips_with_little_movement() -> None:
    good, flat = reading(voice(0), voice(0)), reading(voice(1), np.full(FRAMES, 0.2) + voice(2) * 1e-3)
    assert mean_correlation([good, flat]) > 0.999
    assert np.isnan(mean_correlation([flat]))


def test_silent_opening_excludes_frames_next_to_speech() -> None:
    own = np.zeros(FRAMES)
    own[10:20] = 0.5
    measured = np.zeros(FRAMES)
    measured[9:21] = 0.4
    assert silent_opening([reading(measured, own)]) == (0, 0)
    assert silent_opening([reading(measured + 0.1, own)])[0] == pytest.approx(0.1)


def test_bootstrap_interval_contains_the_metric() -> None:
    noise = np.random.default_rng(5)
    readings = [reading(voice(seed) + noise.normal(size=FRAMES) * 0.1, voice(seed)) for seed in range(20)]
    low, high = bootstrap_interval(readings, own_correlation)
    assert low < own_correlation(readings) < high
    assert high - low < 0.2
