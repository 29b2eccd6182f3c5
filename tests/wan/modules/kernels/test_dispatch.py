"""Which form runs, and who decides."""

import logging

import pytest
import torch
from torch import Tensor

from wan.modules.kernels import dispatch
from wan.modules.kernels.dispatch import SETTING, force_backend, is_disabled, is_enabled, use_triton

X = torch.ones(1, 2, 4)


@pytest.fixture(autouse=True)
def fresh() -> None:
    dispatch._agrees.cache_clear()


@torch.inference_mode()
def test_a_processor_runs_the_plain_forms() -> None:
    assert not use_triton(X)
    with force_backend("triton"):
        assert use_triton(X)
        with force_backend("plain"):
            assert not use_triton(X)
    assert not use_triton(X)


def test_gradients_and_other_dtypes_need_the_plain_forms() -> None:
    with force_backend("triton"):
        assert not use_triton(X)
        with torch.no_grad():
            assert use_triton(X)
            assert not use_triton(X.double())


def test_an_unknown_form_is_an_error() -> None:
    with (
        pytest.raises(ValueError, match="'fast' is no form of a kernel; allowed are triton, plain"),
        force_backend("fast"),  # type: ignore[arg-type]
    ):
        pass


def test_the_operator_switches_kernels_off() -> None:
    assert not is_disabled({})
    assert not is_disabled({SETTING: "auto"})
    assert is_disabled({SETTING: "plain"})
    with pytest.raises(ValueError, match="MULTITALK_KERNELS is 'none'; allowed are auto, plain"):
        is_disabled({SETTING: "none"})


def trial_that_finds(monkeypatch: pytest.MonkeyPatch, errors: dict[str, float] | Exception) -> None:
    """Let the trial of kernels find these errors."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    from wan.modules import verify_kernels

    def found(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        if isinstance(errors, Exception):
            raise errors
        return errors

    monkeypatch.setattr(verify_kernels, "kernel_errors", found)


DEVICE = torch.device("cuda", 0)


def test_kernels_that_agree_are_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    trial_that_finds(monkeypatch, {"GELU": 1e-3, "RMS norm": 2e-3})
    with caplog.at_level(logging.INFO):
        assert is_enabled(DEVICE, torch.bfloat16)
    assert "relative error at most 2.0e-03" in caplog.text
    monkeypatch.setenv(SETTING, "plain")
    assert not is_enabled(DEVICE, torch.bfloat16)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ({"GELU": 1e-3, "RMS norm": 5e-2}, "disagree with it: {'RMS norm': 0.05}"),
        ({"GELU": float("inf")}, "disagree with it: {'GELU': inf}"),
        (RuntimeError("no compiler"), "fail here, plain PyTorch is used: no compiler"),
    ],
)
def test_kernels_that_fail_or_disagree_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, errors: dict[str, float] | Exception, told: str
) -> None:
    trial_that_finds(monkeypatch, errors)
    with caplog.at_level(logging.WARNING):
        assert not is_enabled(DEVICE, torch.bfloat16)
    assert told in caplog.text


def test_kernels_take_no_more_memory_than_their_results() -> None:
    """On the meta device, where requests are counted: a norm makes its result, and a sum is written over its term."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    from wan.modules.norms import LayerNorm
    from wan.offload.estimate import measure_peak

    with torch.device("meta"):
        norm = LayerNorm(512, 1e-6, dtype=torch.bfloat16)
        x, y = (torch.empty(1, 1000, 512, dtype=torch.bfloat16) for _ in range(2))

    def run() -> tuple[Tensor, Tensor]:
        return norm.of_sum(x, y)

    with force_backend("triton"):
        assert measure_peak(run) == x.nbytes
    with force_backend("plain"):
        assert measure_peak(run) > x.nbytes
