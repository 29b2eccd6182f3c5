"""Choice of the backend of a fused operation."""

import pytest
import torch
from torch import Tensor

from wan.modules.kernels import dispatch
from wan.modules.kernels.dispatch import ENV_VAR, enable, force_backend, is_disabled, is_enabled, use_triton

X = torch.ones(1, 2, 4)
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def none_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_verified", set())


@torch.inference_mode()
def test_a_cpu_tensor_runs_eagerly_unless_forced() -> None:
    assert not use_triton(X)
    with force_backend("triton"):
        assert use_triton(X)
        with force_backend("eager"):
            assert not use_triton(X)
    assert not use_triton(X)


def test_gradients_and_other_dtypes_run_eagerly() -> None:
    with force_backend("triton"):
        assert not use_triton(X)
        with torch.no_grad():
            assert use_triton(X)
            assert not use_triton(X.double())


def test_an_unknown_backend_is_an_error() -> None:
    with (
        pytest.raises(ValueError, match="'fast' is not a kernel backend; allowed are triton, eager"),
        force_backend("fast"),  # type: ignore[arg-type]
    ):
        pass


def test_the_environment_disables_kernels() -> None:
    assert not is_disabled({})
    assert not is_disabled({ENV_VAR: "auto"})
    assert is_disabled({ENV_VAR: "plain"})
    assert is_disabled({ENV_VAR: "eager"})
    with pytest.raises(ValueError, match=r"MULTITALK_KERNELS is 'none'; allowed are auto and eager \(or plain\)"):
        is_disabled({ENV_VAR: "none"})


def test_kernels_need_to_be_enabled_for_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_enabled(CUDA, torch.bfloat16)
    enable(CUDA, torch.bfloat16)
    assert is_enabled(CUDA, torch.bfloat16)
    assert not is_enabled(CUDA, torch.float16)
    assert not is_enabled(torch.device("cuda", 1), torch.bfloat16)
    monkeypatch.setenv(ENV_VAR, "plain")
    assert not is_enabled(CUDA, torch.bfloat16)


@torch.inference_mode()
def test_a_meta_tensor_counts_as_one_on_the_enabled_device() -> None:
    x = torch.empty(2, device="meta", dtype=torch.bfloat16)
    assert not use_triton(x)
    enable(CUDA, torch.bfloat16)
    assert use_triton(x)
    assert not use_triton(x.float())


def test_kernels_allocate_only_their_results() -> None:
    """On the meta device, where memory is estimated: a norm allocates its result, a residual overwrites its input."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    from wan.modules.norms import LayerNorm
    from wan.offload.estimate import measure_peak

    with torch.device("meta"):
        norm = LayerNorm(512, 1e-6, dtype=torch.bfloat16)
        x, y = (torch.empty(1, 1000, 512, dtype=torch.bfloat16) for _ in range(2))

    def run() -> tuple[Tensor, Tensor]:
        return norm.add_norm(x, y)

    with force_backend("triton"):
        assert measure_peak(run) == x.nbytes
    with force_backend("eager"):
        assert measure_peak(run) > x.nbytes
