"""Quantized linear layers: rounding, fp8 matmuls, and the interface that transformers reads."""

import logging

import pytest
import torch
from torch import nn

from wan.modules import quantized
from wan.modules.quantized import (
    MAX_VALUE,
    QuantizedLinear,
    apply_linears,
    dequantize,
    fp8_linear,
    quantize_linears,
    quantize_rows,
    quantized_layers,
    supports_fp8_matmul,
)

FORMATS = list(MAX_VALUE)
# Half of the largest spacing of representable values in a row, relative to its largest magnitude.
HALF_STEP = {torch.int8: 0.5 / 127, torch.float8_e4m3fn: 16 / 448}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", FORMATS)
def test_rounding_error_is_at_most_half_a_step(dtype: torch.dtype) -> None:
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
def test_a_quantized_layer_matches_its_dequantized_weights(dtype: torch.dtype, bias: bool) -> None:
    linear = nn.Linear(64, 32, bias=bias).requires_grad_(False)
    quantized_layer = nn.Sequential(nn.Linear(64, 32, bias=bias))
    quantize_linears(quantized_layer, {"0": dtype}, fp8_matmul=True)
    data, scale = quantize_rows(linear.weight, dtype)
    quantized_layer.load_state_dict({"0.data": data, "0.scale": scale} | ({"0.bias": linear.bias} if bias else {}))
    linear.weight.copy_(dequantize(data, scale, torch.float32))
    x = draw(2, 5, 64)
    assert torch.equal(quantized_layer(x), linear(x))
    assert quantized_layers(quantized_layer) == ["0"]


def test_weight_is_none() -> None:
    assert QuantizedLinear(4, 4, True, torch.float8_e4m3fn, False).weight is None


def test_fp8_matmul_is_close_to_dequantized_weights() -> None:
    """PyTorch also has fp8 matmuls on the CPU, which tests the use of scales and bias."""
    x, weight, bias = draw(2, 24, 64).bfloat16(), draw(32, 64, seed=1), draw(32, seed=2).bfloat16()
    weight *= torch.logspace(-3, 3, 32)[:, None]
    data, scale = quantize_rows(weight, torch.float8_e4m3fn)
    expected = nn.functional.linear(x, dequantize(data, scale, x.dtype), bias).float()
    result = fp8_linear(x, data, scale, bias)
    assert (result.dtype, result.shape) == (torch.bfloat16, (2, 24, 32))
    error = (result.float() - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1))
    assert error.max() < 6e-2, "for each output channel"


def test_the_bias_is_added_before_the_result_is_rounded() -> None:
    """As in an unquantized layer; with double rounding, one value in five would differ."""
    x, weight, bias = draw(64, 64).bfloat16(), draw(32, 64, seed=1), 8 * draw(32, seed=2).bfloat16()
    (data, scale), (rows, row_scale) = (quantize_rows(each, torch.float8_e4m3fn) for each in (weight, x))
    sums = dequantize(rows, row_scale, torch.float32) @ dequantize(data, scale, torch.float32).t()
    assert (fp8_linear(x, data, scale, bias) != (sums + bias.float()).bfloat16()).float().mean() < 0.02


def test_queries_keys_and_values_share_one_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three roundings of the same tokens before; every bit of the result is the same."""
    monkeypatch.setattr(quantized, "supports_fp8_matmul", lambda _: True)
    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3))).bfloat16()
    quantize_linears(layers, dict.fromkeys("012", torch.float8_e4m3fn), fp8_matmul=True)
    for number, layer in enumerate(layers):
        layer.data, layer.scale = quantize_rows(draw(64, 64, seed=number), torch.float8_e4m3fn)
        layer.bias.data = draw(64, seed=9).bfloat16()
    x, rounded = draw(2, 16, 64).bfloat16(), []
    separate = [layer(x) for layer in layers]
    quantize = quantized.quantize_activations

    def counted(x_RI: torch.Tensor, dtype: torch.dtype) -> quantized.QuantizedRows:
        rounded.append(dtype)
        return quantize(x_RI, dtype)

    monkeypatch.setattr(quantized, "quantize_activations", counted)
    together = list(apply_linears(x, list(layers)))
    assert len(rounded) == 1
    assert all(torch.equal(a, b) for a, b in zip(together, separate, strict=True))
    plain = nn.Linear(64, 64).bfloat16()
    mixed = list(apply_linears(x, [layers[0], plain, layers[2]]))
    assert len(rounded) == 2
    assert torch.equal(mixed[1], plain(x))
    assert torch.equal(mixed[2], separate[2])
    assert list(apply_linears(x, [plain])) != []
    assert len(rounded) == 2


@pytest.mark.parametrize("failure", [RuntimeError, ValueError, NotImplementedError])
def test_a_device_without_fp8_matmul_falls_back_to_dequantizing(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch raises several exception types for unsupported scaling."""

    def fails(*_: object) -> None:
        raise failure("unsupported scaling (test)")

    class FakeDevice:
        """A CUDA device whose tensors are created on the CPU."""

        type = "cuda"

    monkeypatch.setattr(quantized, "fp8_linear", fails)
    monkeypatch.setattr(quantized, "has_fp8", lambda _: True)
    generator, randn = torch.Generator, torch.randn
    monkeypatch.setattr(torch, "Generator", lambda _: generator())
    monkeypatch.setattr(torch, "randn", lambda *shape, device, **named: randn(*shape, **named))
    with caplog.at_level(logging.WARNING):
        assert not supports_fp8_matmul(FakeDevice())
    assert "unsupported scaling" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fp8_matmul_on_a_gpu() -> None:
    device = torch.device("cuda")
    if torch.cuda.get_device_capability(device) < (8, 9):
        assert not supports_fp8_matmul(device)
    else:
        assert supports_fp8_matmul(device)


def test_no_fp8_matmul_without_a_gpu() -> None:
    assert not supports_fp8_matmul(torch.device("cpu"))
