"""`verify` enables the kernels of one device and dtype if they agree with their eager forms."""

import logging
from pathlib import Path

import pytest
import torch

from wan import MultiTalkPipeline
from wan.configs import ModelConfig
from wan.modules import verify_kernels
from wan.modules.kernels import dispatch
from wan.modules.kernels.dispatch import is_enabled
from wan.modules.verify_kernels import verify

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def none_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_verified", set())


def mock_errors(monkeypatch: pytest.MonkeyPatch, errors: dict[str, float] | Exception) -> list[torch.dtype]:
    """Replace the comparison by these errors; returns the dtypes that are compared."""
    compared: list[torch.dtype] = []

    def kernel_errors(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        compared.append(dtype)
        if isinstance(errors, Exception):
            raise errors
        return errors

    monkeypatch.setattr(verify_kernels, "kernel_errors", kernel_errors)
    return compared


def test_kernels_that_agree_are_enabled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mock_errors(monkeypatch, {"GELU": 1e-3, "RMS norm": 2e-3})
    with caplog.at_level(logging.INFO):
        verify(CUDA, torch.bfloat16)
    assert is_enabled(CUDA, torch.bfloat16)
    assert "relative error at most 2.0e-03" in caplog.text


def test_each_dtype_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = mock_errors(monkeypatch, {"GELU": 5e-3})
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        verify(CUDA, dtype)
    assert compared == [torch.bfloat16, torch.float16]
    assert is_enabled(CUDA, torch.bfloat16)
    assert not is_enabled(CUDA, torch.float16), "above the tolerance of float16"


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"GELU": 1e-3, "RMS norm": 5e-2}, "disagree with eager PyTorch, which is used: {'RMS norm': 0.05}"),
        ({"GELU": float("inf")}, "disagree with eager PyTorch, which is used: {'GELU': inf}"),
        (RuntimeError("no compiler"), "fail here, eager PyTorch is used: no compiler"),
    ],
)
def test_kernels_that_fail_or_disagree_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    errors: dict[str, float] | Exception,
    message: str,
) -> None:
    mock_errors(monkeypatch, errors)
    with caplog.at_level(logging.WARNING):
        verify(CUDA, torch.bfloat16)
    assert not is_enabled(CUDA, torch.bfloat16)
    assert message in caplog.text


@pytest.mark.parametrize("value", ["plain", "eager"])
def test_disabled_kernels_are_not_compared(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    compared = mock_errors(monkeypatch, {"GELU": 0.0})
    monkeypatch.setenv(dispatch.ENV_VAR, value)
    verify(CUDA, torch.bfloat16)
    assert compared == []


def test_no_kernels_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = mock_errors(monkeypatch, {"GELU": 0.0})
    verify(torch.device("cpu"), torch.float32)
    assert compared == []


def test_the_pipeline_verifies_the_kernels_for_its_dtype(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[torch.device, torch.dtype]] = []
    monkeypatch.setattr("wan.multitalk.verify", lambda device, dtype: calls.append((device, dtype)))
    pipeline = MultiTalkPipeline(puppet, puppet_folder)
    MultiTalkPipeline.from_models(puppet, pipeline.models)
    assert calls == [(pipeline.device, torch.float32)] * 2
