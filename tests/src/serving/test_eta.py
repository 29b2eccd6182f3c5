"""Remaining time estimated from stage times, and the time limit."""

import logging

import pytest

from src.serving.eta import RuntimeEstimator, TimeLimitError
from src.serving.timing import StageTimer


def timer_after(steps: int, step_s: float = 1.0, **others: tuple[float, int]) -> StageTimer:
    """A timer after `steps` denoising steps, with the seconds and marks of other stages."""
    timer = StageTimer()
    for stage, (seconds, count) in {"denoise": (steps * step_s, steps), **others}.items():
        timer.seconds[stage] = seconds
        timer.counts[stage] = count
    return timer


def estimator(timer: StageTimer, limit_s: float | None = None, elapsed_s: float = 0.0) -> RuntimeEstimator:
    return RuntimeEstimator(timer, limit_s, started=0.0, clock=lambda: elapsed_s)


def test_remaining_steps_take_the_mean_of_past_steps() -> None:
    remaining = estimator(timer_after(3, condition=(2.0, 1))).remaining(num_chunks=4, chunks_denoised=0.3)
    assert remaining == pytest.approx(3 / 0.3 * 3.7 + 3 * 2.0)


def test_other_stages_count_after_their_first_run() -> None:
    timer = timer_after(10, condition=(4.0, 2), decode=(5.0, 1), encode=(0.5, 1))
    remaining = estimator(timer).remaining(num_chunks=4, chunks_denoised=1.0)
    assert remaining == pytest.approx(30 + 2 * 2 + 3 * 5 + 3 * 0.5)


def test_nothing_remains_once_all_chunks_are_denoised() -> None:
    assert estimator(timer_after(8)).remaining(num_chunks=1, chunks_denoised=1.0) == 0


def test_no_estimate_during_the_first_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    eta = estimator(timer_after(2), limit_s=1)
    eta.update(chunk=1, num_chunks=9, fraction=0.2)
    assert eta.expected_s is None
    assert not caplog.messages


def test_time_limit_error_names_estimate_and_limit() -> None:
    with pytest.raises(TimeLimitError, match=r"about 103 s; 60 s are allowed \(the operator sets MAX_RUNTIME\)"):
        estimator(timer_after(3), limit_s=60, elapsed_s=3).update(chunk=1, num_chunks=10, fraction=0.291)
    estimator(timer_after(3), limit_s=104, elapsed_s=3).update(chunk=1, num_chunks=10, fraction=0.291)


def test_estimate_is_logged_once_per_chunk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    eta = estimator(timer_after(4, step_s=25), elapsed_s=100)
    for chunk, fraction in ((1, 0.4), (1, 1.0), (2, 0.1), (2, 0.2), (2, 1.0)):
        eta.update(chunk=chunk, num_chunks=2, fraction=fraction)
    assert caplog.messages == ["about 400 s left of 500 s", "about 82 s left of 182 s"]


def test_a_finished_chunk_of_one_step_is_estimated() -> None:
    with pytest.raises(TimeLimitError):
        estimator(timer_after(1), limit_s=5, elapsed_s=1).update(chunk=1, num_chunks=10, fraction=1.0)
