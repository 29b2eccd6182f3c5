"""Eight-bit linear layers: their rounding, their products, and what libraries see of them."""

import logging

import pytest
import torch
from torch import nn

from wan.modules import quantized
from wan.modules.quantized import (
    MAX_VALUE,
    QuantizedLinear,
    dequantize,
    fp8_linear,
    quantize_linears,
    quantize_rows,
    quantized_layers,
    supports_fp8_matmul,
)

FORMATS = list(MAX_VALUE)
# Half a step of the coarsest rounding within a row, relative to its largest value.
HALF_STEP = {torch.int8: 0.5 / 127, torch.float8_e4m3fn: 16 / 448}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", FORMATS)
def test_rounding_is_within_half_a_step(dtype: torch.dtype) -> None:
    weight = draw(32, 64) * torch.logspace(-6, 6, 32)[:, None]
    data, scale = quantize_rows(weight, dtype)
    assert (data.dtype, scale.dtype, scale.shape) == (dtype, torch.float32, (32, 1))
    error = (dequantize(data, scale, torch.float32) - weight).abs().amax(1) / weight.abs().amax(1)
    assert error.max() <= HALF_STEP[dtype] * 1.001


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_largest_value_and_zero_are_exact(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.0, 0.0], [-3.5, 1.75], [1e-30, 0.0]])
    data, scale = quantize_rows(weight, dtype)
    assert torch.equal(data.float()[0], torch.zeros(2))
    assert scale[0] == 1
    assert data.float()[1, 0] == -MAX_VALUE[dtype]
    torch.testing.assert_close(dequantize(data, scale, torch.float32)[2], weight[2])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_dequantized_one(dtype: torch.dtype, bias: bool) -> None:
    plain = nn.Linear(64, 32, bias=bias).requires_grad_(False)
    eight_bits = nn.Sequential(nn.Linear(64, 32, bias=bias))
    quantize_linears(eight_bits, {"0": dtype}, fp8_matmul=True)
    data, scale = quantize_rows(plain.weight, dtype)
    eight_bits.load_state_dict({"0.data": data, "0.scale": scale} | ({"0.bias": plain.bias} if bias else {}))
    plain.weight.copy_(dequantize(data, scale, torch.float32))
    x = draw(2, 5, 64)
    assert torch.equal(eight_bits(x), plain(x))
    assert quantized_layers(eight_bits) == ["0"]


def test_libraries_see_no_weight() -> None:
    assert QuantizedLinear(4, 4, True, torch.float8_e4m3fn, False).weight is None


def test_fp8_products_are_near() -> None:
    """PyTorch has these products on the CPU too, which shows that scales and bias are in their places."""
    x, weight, bias = draw(2, 24, 64).bfloat16(), draw(32, 64, seed=1), draw(32, seed=2).bfloat16()
    weight *= torch.logspace(-3, 3, 32)[:, None]
    data, scale = quantize_rows(weight, torch.float8_e4m3fn)
    expected = nn.functional.linear(x, dequantize(data, scale, x.dtype), bias).float()
    ours = fp8_linear(x, data, scale, bias)
    assert (ours.dtype, ours.shape) == (torch.bfloat16, (2, 24, 32))
    error = (ours.float() - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1))
    assert error.max() < 6e-2, "of every output"


def test_the_bias_is_added_before_the_result_is_rounded() -> None:
    """As in a layer that has no eight bits; rounded twice, one value in five would be another."""
    x, weight, bias = draw(64, 64).bfloat16(), draw(32, 64, seed=1), 8 * draw(32, seed=2).bfloat16()
    (data, scale), (rows, row_scale) = (quantize_rows(each, torch.float8_e4m3fn) for each in (weight, x))
    sums = dequantize(rows, row_scale, torch.float32) @ dequantize(data, scale, torch.float32).t()
    assert (fp8_linear(x, data, scale, bias) != (sums + bias.float()).bfloat16()).float().mean() < 0.02


@pytest.mark.parametrize("failure", [RuntimeError, ValueError, NotImplementedError])
def test_a_device_without_row_scales_dequantizes(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch complains of what a device has not in several ways."""

    def fails(*_: object) -> None:
        raise failure("no such scaling (as a test has it)")

    class Device:
        """What stands for a GPU that knows the format; tensors are made on the processor."""

        type = "cuda"

    monkeypatch.setattr(quantized, "fp8_linear", fails)
    monkeypatch.setattr(quantized, "has_fp8", lambda _: True)
    generator, randn = torch.Generator, torch.randn
    monkeypatch.setattr(torch, "Generator", lambda _: generator())
    monkeypatch.setattr(torch, "randn", lambda *shape, device, **named: randn(*shape, **named))
    with caplog.at_level(logging.WARNING):
        assert not supports_fp8_matmul(Device())
    assert "no such scaling" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_fp8_products_on_the_device() -> None:
    device = torch.device("cuda")
    if torch.cuda.get_device_capability(device) < (8, 9):
        assert not supports_fp8_matmul(device)
    else:
        assert supports_fp8_matmul(device)


def test_no_fp8_products_without_a_gpu() -> None:
    assert not supports_fp8_matmul(torch.device("cpu"))
