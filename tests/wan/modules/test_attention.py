"""Backends must agree with the reference, or are not used."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan.modules.attention import FLASH_MODULES, attention, choose_backend, flash_attention, probe_inputs, sdpa

QKV = [torch.randn(1, 64, 4, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def test_attention_is_the_formula() -> None:
    q, k, v = (x.double() for x in QKV)
    weights = torch.einsum("blae,bsae->bals", q, k).div(32**0.5).softmax(-1)
    torch.testing.assert_close(attention(*QKV).double(), torch.einsum("bals,bsae->blae", weights, v), atol=1e-6, rtol=0)


def slow_but_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    for _ in range(20):
        out = sdpa(q, k, v)
    return out


@pytest.mark.parametrize("wrong", [lambda q, k, v: v, lambda q, k, v: torch.full_like(q, float("nan"))])
def test_a_backend_that_disagrees_is_refused(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_backend({"torch": slow_but_right, "wrong": wrong}, [QKV]) == "torch"  # type: ignore[dict-item]
    assert "wrong disagrees with the reference" in caplog.text


def test_the_fastest_that_agrees_is_chosen() -> None:
    assert choose_backend({"slow": slow_but_right, "torch": sdpa}, [QKV]) == "torch"


def test_a_backend_that_fails_is_refused() -> None:
    def fails(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise AssertionError("no kernel for this device")

    assert choose_backend({"fails": fails, "torch": sdpa}, [QKV]) == "torch"


def test_an_absent_package_is_no_backend() -> None:
    assert flash_attention("surely_no_such_flash_attention") is None


def test_probes_have_the_networks_shapes() -> None:
    shapes = [[tuple(x.shape) for x in qkv] for qkv in probe_inputs(torch.device("cpu"), torch.float32)]
    assert shapes[0][0] == shapes[0][1]
    assert all(k == v and q[0] == k[0] and q[2:] == k[2:] for q, k, v in shapes)


def test_the_package_that_the_image_installs_is_probed() -> None:
    cog = (Path(__file__).parents[3] / "cog.yaml").read_text(encoding="utf-8")
    (version,) = set(re.findall(r"flash-attn-(\d)", cog))
    assert version == "4"
    assert "flash_attn.cute" in FLASH_MODULES
