"""The time that is left is told from the first steps on, and a request that would take too long ends there."""

import logging
import time

import pytest

from src.serving.eta import RuntimeEstimator, TimeLimitError
from src.serving.timing import StageTimer


def after(steps: int, seconds: float = 1.0, **others: tuple[float, int]) -> StageTimer:
    """Stages in which each step took so long, and other stages so many seconds, so often."""
    stages = StageTimer()
    for stage, (spent, reports) in {"denoise": (steps * seconds, steps), **others}.items():
        stages.seconds[stage] = spent
        stages.reports[stage] = reports
    return stages


def test_steps_to_come_take_as_long() -> None:
    forecast = RuntimeEstimator(after(3, condition=(2.0, 1)), None)
    assert forecast.remaining(chunks=4, denoised=0.3) == pytest.approx(3 / 0.3 * 3.7 + 3 * 2.0)


def test_stages_of_every_chunk_count_once_they_are_known() -> None:
    stages = after(10, condition=(4.0, 2), decode=(5.0, 1), encode=(0.5, 1))
    assert RuntimeEstimator(stages, None).remaining(chunks=4, denoised=1.0) == pytest.approx(
        30 + 2 * 2 + 3 * 5 + 3 * 0.5
    )


def test_steps_that_are_skipped_cost_nothing() -> None:
    """Five of ten steps run the network, and all of them are done: what is left is other chunks'."""
    assert RuntimeEstimator(after(8), None).remaining(chunks=1, denoised=1.0) == 0


def test_nothing_is_said_before_the_first_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forecast = RuntimeEstimator(after(2), 1)
    forecast.look(chunk=1, chunks=9, share=0.2)
    assert forecast.expected is None
    assert not caplog.messages


def test_both_numbers_are_named() -> None:
    forecast = RuntimeEstimator(after(3), 60, started=time.perf_counter() - 3)
    with pytest.raises(TimeLimitError, match=r"about 103 s; 60 s are allowed \(the operator sets MAX_RUNTIME\)"):
        forecast.look(chunk=1, chunks=10, share=0.291)
    RuntimeEstimator(after(3), 104, started=time.perf_counter() - 3).look(chunk=1, chunks=10, share=0.291)


def test_it_is_told_once_a_chunk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forecast = RuntimeEstimator(after(4, seconds=25), None, started=time.perf_counter() - 100)
    for chunk, share in ((1, 0.4), (1, 1.0), (2, 0.1), (2, 0.2), (2, 1.0)):
        forecast.look(chunk=chunk, chunks=2, share=share)
    assert caplog.messages == ["about 400 s left of 500 s", "about 82 s left of 182 s"]


def test_one_step_is_enough_where_a_chunk_has_no_more() -> None:
    forecast = RuntimeEstimator(after(1), 5, started=time.perf_counter() - 1)
    with pytest.raises(TimeLimitError):
        forecast.look(chunk=1, chunks=10, share=1.0)
