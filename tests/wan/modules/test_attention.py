"""Choice of attention backends: only those that agree with the reference are used."""

import logging
import re
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from wan.modules import attention as attention_module
from wan.modules.attention import (
    ENV_VAR,
    FLASH_MODULES,
    NAMES,
    SDPA,
    Backend,
    ShapeClass,
    attention,
    backend,
    check_backend,
    choose_backend,
    chosen_backends,
    find_fault,
    forced_backend,
    probe,
    reference,
    sdpa,
    shape_class,
)

QKV = [torch.randn(1, 64, 4, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def reset_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No backend chosen yet, none forced."""
    monkeypatch.setattr(attention_module, "_chosen", {})
    monkeypatch.setattr(attention_module, "_names", {})
    monkeypatch.delenv(ENV_VAR, raising=False)
    backend.cache_clear()
    yield
    backend.cache_clear()


def test_attention_matches_the_formula() -> None:
    q, k, v = (x.double() for x in QKV)
    weights = torch.einsum("blae,bsae->bals", q, k).div(32**0.5).softmax(-1)
    expected = torch.einsum("bals,bsae->blae", weights, v)
    for function in (attention, reference):
        torch.testing.assert_close(function(*QKV).double(), expected, atol=1e-6, rtol=0)


def slow_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    for _ in range(20):
        out = sdpa(q, k, v)
    return out


def fails(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise AssertionError("no kernel for this device\nsecond line")


def returns_nan(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """NaN in one value, outside the rows that are compared."""
    out = sdpa(q, k, v).clone()
    out[:, 1, 0, 0] = float("nan")
    return out


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (lambda q, k, v: q, "it differs from the reference by 1.0e+00"),
        (lambda q, k, v: v, "its result has another shape or dtype"),
        (lambda q, k, v: sdpa(q, k, v).double(), "its result has another shape or dtype"),
        (returns_nan, "its result has NaN or Inf"),
        (fails, "no kernel for this device"),
    ],
)
def test_a_wrong_backend_is_rejected(wrong: Backend, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = QKV
    long = [q.repeat(1, 3, 1, 1), k, v]
    with caplog.at_level(logging.INFO):
        assert choose_backend({"torch": slow_sdpa, "wrong": wrong}, long) == "torch"
    pattern = re.escape(fault).replace(re.escape("1.0e+00"), r"\d\.\de[+-]\d\d")
    assert re.search(f"wrong is not used: {pattern}$", caplog.text.strip())


def test_the_fastest_correct_backend_is_chosen() -> None:
    assert choose_backend({"slow": slow_sdpa, "torch": sdpa}, QKV) == "torch"


def test_math_is_chosen_only_without_alternative() -> None:
    """Even if it is the fastest on the probe: at full size the attention matrix needs too much memory."""
    assert choose_backend({"slow": slow_sdpa, "math": sdpa}, QKV) == "slow"
    assert choose_backend({"fails": fails, "math": sdpa}, QKV) == "math"


def test_no_working_backend_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="none of the backends works here: fails, math"):
        choose_backend({"fails": fails, "math": fails}, QKV)


def test_only_approximate_backends_get_the_larger_tolerance() -> None:
    def inexact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = reference(q, k, v)
        return out + 5e-2 * out.norm() / out.numel() ** 0.5 * torch.ones_like(out)

    assert find_fault("sage", inexact, QKV) is None
    assert find_fault("flash", inexact, QKV) == "it differs from the reference by 5.0e-02"


@pytest.mark.parametrize("kind", ["self", "many_keys", "some_keys", "few_keys"])
def test_a_probe_has_the_shape_class_it_is_for(kind: str) -> None:
    shape = ShapeClass(CPU, torch.float32, kind, 24)
    q, k, v = probe(shape)
    assert k.shape == v.shape
    assert find_fault("torch", sdpa, [q, k, v]) is None
    batch, queries, keys = attention_module._PROBES[kind]
    full = (torch.empty(batch, tokens, 8, 24) for tokens in (queries, keys))
    assert shape_class(*full) == shape


@pytest.mark.parametrize(
    ("queries", "keys", "kind"),
    [
        ((1, 32928, 40, 128), (1, 32928, 40, 128), "self"),
        ((1, 32928, 40, 128), (1, 1568, 40, 128), "many_keys"),
        ((1, 32928, 40, 128), (1, 512, 40, 128), "some_keys"),
        ((1, 32928, 40, 128), (1, 257, 40, 128), "some_keys"),
        ((21, 1568, 40, 128), (21, 32, 40, 128), "few_keys"),
        ((21, 3600, 40, 128), (21, 64, 40, 128), "few_keys"),
    ],
)
def test_shape_classes_of_the_published_network(queries: tuple[int, ...], keys: tuple[int, ...], kind: str) -> None:
    q, k = (torch.empty(size, device="meta", dtype=torch.bfloat16) for size in (queries, keys))
    assert shape_class(q, k) == ShapeClass(q.device, torch.bfloat16, kind, 128)


def test_the_cpu_uses_sdpa() -> None:
    attention(*QKV)
    attention(QKV[0], *(x[:, :7] for x in QKV[1:]))
    names = {(shape.kind, shape.width): name for shape, name in chosen_backends().items()}
    assert names == {("self", 32): "torch", ("few_keys", 32): "torch"}


def test_each_shape_class_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a forced backend, since the CPU default is not probed."""
    probed = []

    def record_probe(shape: ShapeClass) -> list[Tensor]:
        probed.append(shape.kind)
        return QKV

    monkeypatch.setenv(ENV_VAR, "math")
    monkeypatch.setattr(attention_module, "probe", record_probe)
    for _ in range(3):
        attention(*QKV)
        attention(QKV[0], *(x[:, :7] for x in QKV[1:]))
    assert probed == ["self", "few_keys"]
    assert set(chosen_backends().values()) == {"math"}


def test_the_environment_forces_a_backend(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    expected = attention(*QKV)
    monkeypatch.setenv(ENV_VAR, "math")
    with caplog.at_level(logging.INFO):
        torch.testing.assert_close(attention(*QKV), expected)
    assert "attention: math for self, heads of 32, torch.float32, cpu, set by MULTITALK_ATTENTION" in caplog.text
    monkeypatch.delenv(ENV_VAR)
    attention(*QKV)
    assert len(attention_module._chosen) == 2


def test_an_unknown_backend_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_VAR, "quick")
    with pytest.raises(ValueError, match=r"MULTITALK_ATTENTION is 'quick'; allowed are torch, cudnn, flash, .*, sage$"):
        attention(*QKV)
    assert forced_backend({}) is None
    assert forced_backend({ENV_VAR: ""}) is None
    assert [forced_backend({ENV_VAR: name}) for name in NAMES] == list(NAMES)


def test_forcing_an_unusable_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_VAR, "cudnn")
    with pytest.raises(RuntimeError, match=r"is cudnn, which cannot be used here: .*; usable are torch, .*math"):
        attention(*QKV)
    with pytest.raises(RuntimeError, match=r"is sage, .* its package is not installed; usable are math$"):
        check_backend("sage", {"math": sdpa, "flash": fails}, QKV)


def fake_sage(monkeypatch: pytest.MonkeyPatch, function: Backend) -> None:
    """Install a fake `sageattention` package."""

    def sageattn(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool) -> Tensor:
        assert (tensor_layout, is_causal) == ("NHD", False)
        return function(q, k, v)

    module = types.ModuleType("sageattention")
    module.sageattn = sageattn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", module)


def test_an_approximate_backend_is_used_only_when_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sage(monkeypatch, sdpa)
    attention(*QKV)
    assert set(chosen_backends().values()) == {"torch"}
    monkeypatch.setenv(ENV_VAR, "sage")
    attention(*QKV)
    assert set(chosen_backends().values()) == {"sage"}


def test_an_approximate_backend_is_verified_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sage(monkeypatch, returns_nan)
    monkeypatch.setenv(ENV_VAR, "sage")
    with pytest.raises(RuntimeError, match=r"is sage, .*: its result has NaN or Inf; usable are torch"):
        attention(*QKV)
    assert chosen_backends() == {}


def test_flash_attention_is_found_by_module_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend("flash-attention-3") is None
    module = types.ModuleType("flash_attn_interface")
    module.flash_attn_func = lambda q, k, v: (sdpa(q, k, v), None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    backend.cache_clear()
    flash = backend("flash-attention-3")
    assert flash is not None
    assert find_fault("flash-attention-3", flash, QKV) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["self", "many_keys", "some_keys", "few_keys"])
def test_a_gpu_has_a_fast_backend_for_each_shape_class(kind: str) -> None:
    shape = ShapeClass(torch.device("cuda", 0), torch.bfloat16, kind, 128)
    qkv = probe(shape)
    backends = {name: candidate for name in (*FLASH_MODULES, *SDPA) if (candidate := backend(name)) is not None}
    assert choose_backend(backends, qkv) != "math"
