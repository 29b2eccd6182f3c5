"""Choice of attention backends: only those that agree with the reference are used."""

import logging
import re
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from wan.modules import attention as attention_module
from wan.modules import attention_probes
from wan.modules.attention import (
    ENV_VAR,
    FLASH_MODULES,
    NAMES,
    SDPA,
    attention,
    backend,
    check_backend,
    chosen_backends,
    forced_backend,
    sdpa,
    shape_class,
)
from wan.modules.attention_probes import (
    PROBES,
    Backend,
    ShapeClass,
    choose_backend,
    find_fault,
    measure_seconds,
    probes,
    reference,
)

QKV = [torch.randn(1, 64, 4, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def reset_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No backend chosen yet, none forced."""
    monkeypatch.setattr(attention_module, "_chosen", {})
    monkeypatch.setattr(attention_module, "_names", {})
    monkeypatch.setattr(attention_module, "_failed", set())
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
    return sdpa(q, k, v)


@pytest.fixture
def _timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`slow_sdpa` takes ten seconds, every other backend one."""
    seconds = lambda candidate, qkv: 10.0 if candidate is slow_sdpa else 1.0  # noqa: E731
    monkeypatch.setattr(attention_probes, "measure_seconds", seconds)


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
        assert choose_backend({"torch": sdpa, "wrong": wrong}, [long]) == "torch"
    pattern = re.escape(fault).replace(re.escape("1.0e+00"), r"\d\.\de[+-]\d\d")
    assert re.search(f"wrong is not used: {pattern}$", caplog.text.strip())


@pytest.mark.usefixtures("_timed")
def test_the_fastest_correct_backend_is_chosen() -> None:
    assert choose_backend({"slow": slow_sdpa, "torch": sdpa}, [QKV]) == "torch"
    assert choose_backend({"torch": sdpa, "slow": slow_sdpa}, [QKV, QKV]) == "torch"


def test_a_backend_that_fails_one_probe_of_its_class_is_rejected() -> None:
    """Keys that are no multiple of the tile, for example the 257 of the image."""

    def whole_tiles_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        whole = k.shape[1] // 64 * 64
        return sdpa(q, k[:, :whole], v[:, :whole])

    assert find_fault("wrong", whole_tiles_only, QKV) is None
    partial = [torch.randn(1, 65, 4, 32) for _ in range(3)]
    assert choose_backend({"wrong": whole_tiles_only, "torch": slow_sdpa}, [QKV, partial]) == "torch"


@pytest.mark.usefixtures("_timed")
def test_math_is_chosen_only_without_alternative() -> None:
    """Even if it is the fastest on the probe: at full size the attention matrix needs too much memory."""
    assert choose_backend({"slow": slow_sdpa, "math": sdpa}, [QKV]) == "slow"
    assert choose_backend({"math": sdpa, "slow": slow_sdpa}, [QKV]) == "slow"
    assert choose_backend({"fails": fails, "math": sdpa}, [QKV, QKV]) == "math"


def test_no_working_backend_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="none of the backends works here: fails, math"):
        choose_backend({"fails": fails, "math": fails}, [QKV])


def test_only_approximate_backends_get_the_larger_tolerance() -> None:
    def inexact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = reference(q, k, v)
        return out + 5e-2 * out.norm() / out.numel() ** 0.5 * torch.ones_like(out)

    assert find_fault("sage", inexact, QKV) is None
    assert find_fault("flash", inexact, QKV) == "it differs from the reference by 5.0e-02"


@pytest.mark.parametrize("kind", ["self", "many_keys", "some_keys", "few_keys"])
def test_probes_have_the_shape_class_they_are_for(kind: str) -> None:
    shape = ShapeClass(CPU, torch.float32, kind, 24, 3)
    for q, k, v in probes(shape):
        assert k.shape == v.shape
        assert find_fault("torch", sdpa, [q, k, v]) is None
    for batch, queries, keys in PROBES[kind]:
        full = (torch.empty(batch, tokens, 3, 24, device="meta") for tokens in (queries, keys))
        assert shape_class(*full) == shape._replace(device=torch.device("meta"))


def test_probes_are_the_shapes_that_run() -> None:
    """Counted in a forward of the published network at 448 x 896 for one and two persons."""
    assert {shape for shapes in PROBES.values() for shape in shapes} == {
        *((1, 32928, keys) for keys in (32928, 1568, 512, 257)),
        *((21, 1568, keys) for keys in (32, 64)),
    }
    q = torch.empty(1, 9, 40, 128)
    assert (shape_class(q, q).heads, shape_class(q, q).width) == (40, 128)


def test_a_gpu_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, _: "Event") -> float:
            return 40.0

    def candidate(*_: Tensor) -> Tensor:
        log.append("call")
        return QKV[0]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    short, long = ([types.SimpleNamespace(shape=(1, n), device=torch.device("cuda", 0))] * 3 for n in (1568, 32928))
    assert measure_seconds(candidate, short) == 0.04 / 20  # type: ignore[arg-type]
    assert log == 3 * ["event", *20 * ["call"], "event", "wait"]
    log.clear()
    assert measure_seconds(candidate, long) == 0.04 / 2  # type: ignore[arg-type]
    assert log.count("call") == 6


def test_out_of_memory_is_no_fault_of_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller offload plan makes room; the choice stays as it is."""

    def run_out(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("raised by the test")

    with pytest.raises(torch.OutOfMemoryError):
        find_fault("flash", run_out, QKV)
    attention_module._chosen[shape_class(QKV[0], QKV[1]), None] = run_out
    with pytest.raises(torch.OutOfMemoryError):
        attention(*QKV)
    assert attention_module._failed == set()


def test_a_backend_that_raises_at_run_time_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[list[str]] = []

    def choose(shape: ShapeClass, forced: str | None) -> None:
        left = [name for name in ("flash", "efficient", "torch") if (shape, name) not in attention_module._failed]
        calls.append(left)
        attention_module._names[shape] = left[0]
        attention_module._chosen[shape, forced] = sdpa if left[0] == "torch" else fails

    monkeypatch.setattr(attention_module, "_choose", choose)
    for _ in range(2):
        assert torch.equal(attention(*QKV), sdpa(*QKV))
    assert [len(left) for left in calls] == [3, 2, 1], "the choice holds for all later calls"
    assert "flash is not used any more for self, 4 heads of 32" in caplog.text
    assert "efficient is not used any more" in caplog.text


def test_a_forced_backend_that_raises_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor the last one is replaced silently."""
    for forced in ("math", None):
        monkeypatch.setenv(ENV_VAR, forced or "")
        shape = shape_class(QKV[0], QKV[1])
        attention_module._chosen[shape, forced] = fails
        attention_module._names[shape] = forced or "torch"
        with pytest.raises(AssertionError, match="no kernel for this device"):
            attention(*QKV)


@pytest.mark.parametrize(
    ("queries", "keys", "kind"),
    [
        ((1, 32928, 40, 128), (1, 32928, 40, 128), "self"),
        ((1, 32928, 40, 128), (1, 1568, 40, 128), "many_keys"),
        ((1, 32928, 40, 128), (1, 512, 40, 128), "some_keys"),
        ((1, 32928, 40, 128), (1, 257, 40, 128), "some_keys"),
        ((21, 1568, 40, 128), (21, 32, 40, 128), "few_keys"),
        ((21, 3600, 40, 128), (21, 64, 40, 128), "few_keys"),
        ((1, 32928, 8, 64), (1, 32928, 8, 64), "self"),
    ],
)
def test_shape_classes_of_the_published_network(queries: tuple[int, ...], keys: tuple[int, ...], kind: str) -> None:
    q, k = (torch.empty(size, device="meta", dtype=torch.bfloat16) for size in (queries, keys))
    assert shape_class(q, k) == ShapeClass(q.device, torch.bfloat16, kind, *reversed(queries[2:]))


def test_the_cpu_uses_sdpa() -> None:
    attention(*QKV)
    attention(QKV[0], *(x[:, :7] for x in QKV[1:]))
    names = {(shape.kind, shape.width): name for shape, name in chosen_backends().items()}
    assert names == {("self", 32): "torch", ("few_keys", 32): "torch"}


def test_each_shape_class_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a forced backend, since the CPU default is not probed."""
    probed = []

    def record_probes(shape: ShapeClass) -> list[list[Tensor]]:
        probed.append(shape.kind)
        return [QKV]

    monkeypatch.setenv(ENV_VAR, "math")
    monkeypatch.setattr(attention_module, "probes", record_probes)
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
    assert "attention: math for self, 4 heads of 32, torch.float32, cpu, set by MULTITALK_ATTENTION" in caplog.text
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
        check_backend("sage", {"math": sdpa, "flash": fails}, [QKV])


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
    backends = {name: candidate for name in (*FLASH_MODULES, *SDPA) if (candidate := backend(name)) is not None}
    assert choose_backend(backends, probes(shape)) != "math"
