"""Linear layers whose weights are stored in eight bits, with a scale per output row.

Shapes: O outputs, I inputs, D width, R rows of activations, K rank of a LoRA.
"""

import functools
import importlib
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.kernels.dispatch import use_triton

logger = logging.getLogger(__name__)

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The stored formats, and the largest value of each."""
_FP8_CAPABILITY = (8, 9)
_AGREEMENT = 6e-2


class QuantizedLinear(nn.Module):
    """x (data * scale)^T + bias; the product in fp8 where that is wanted and the device can, else dequantised."""

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, products: bool) -> None:
        """`products`: whether activations may be rounded to fp8 too, row by row, on a device that multiplies fp8."""
        super().__init__()
        assert dtype in LARGEST
        self.products = products and dtype == torch.float8_e4m3fn
        self.register_buffer("data", torch.empty(out_features, in_features, dtype=dtype))
        self.register_buffer("scale", torch.empty(out_features, 1))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.register_buffer("down", None, persistent=False)
        self.register_buffer("up", None, persistent=False)

    data: Tensor
    scale: Tensor
    down: Tensor | None
    up: Tensor | None

    @property
    def weight(self) -> None:
        """None: transformers looks at `weight` to choose a dtype for activations, and must not find eight bits."""
        return

    def forward(self, x: Tensor) -> Tensor:
        if self.products and x.dtype == torch.bfloat16 and supports_fp8_matmul(x.device):
            y = fp8_linear(x, self.data, self.scale, self.bias)
        else:
            y = F.linear(x, dequantize(self.data, self.scale, x.dtype), self.bias)
        return y if self.down is None or self.up is None else y + F.linear(F.linear(x, self.down), self.up)

    def set_low_rank(self, down_KI: Tensor | None, up_OK: Tensor | None) -> None:
        """Have `up @ down` added to the weights, unrounded, by computing it beside them; None takes it out."""
        self.down, self.up = down_KI, up_OK


def quantize_rows(weight_OI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to `dtype` with the largest value of a row at the end of the range.

    Returns the data and its float32 scale, O x 1; a row of zeros has scale 1.
    """
    weight = weight_OI.float()
    scale = weight.abs().amax(dim=-1, keepdim=True) / LARGEST[dtype]
    scale = torch.where(scale == 0, 1.0, scale)
    scaled = (weight / scale).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scale


def quantize_activations(x_RI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`quantize_rows` for a floating-point format, in one pass where there is a kernel: PyTorch takes seven, most of
    them in float32."""
    if use_triton(x_RI):
        kernel = importlib.import_module("wan.modules.kernels.quantize")
        data, scale = kernel.quantize(x_RI, dtype, LARGEST[dtype])
        return data, scale
    return quantize_rows(x_RI, dtype)


def dequantize(data_OI: Tensor, scale_O1: Tensor, dtype: torch.dtype) -> Tensor:
    """data * scale in float32, rounded to `dtype`."""
    return (data_OI.float() * scale_O1.float()).to(dtype)


def fp8_linear(x: Tensor, data_OI: Tensor, scale_O1: Tensor, bias: Tensor | None) -> Tensor:
    """A product of e4m3 matrices: activations get a scale per row, and both scales multiply the float32 sums, to which
    the bias is added before they are rounded."""
    data_RI, scale_R1 = quantize_activations(x.flatten(0, -2), data_OI.dtype)
    y = torch._scaled_mm(
        data_RI, data_OI.t(), scale_a=scale_R1, scale_b=scale_O1.t(), bias=bias, out_dtype=x.dtype, use_fast_accum=True
    )
    return y.unflatten(0, x.shape[:-1])


def has_fp8(device: torch.device) -> bool:
    """Whether the device knows the format: a GPU from Ada on, or a processor, where it is emulated."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY


@functools.cache
def supports_fp8_matmul(device: torch.device) -> bool:
    """Whether the device has fp8 products with row scales that agree with dequantising; tried once.

    The meta device, which only counts memory, is treated as this machine's own.
    """
    if device.type == "meta" and torch.cuda.is_available():
        return supports_fp8_matmul(torch.device("cuda", torch.cuda.current_device()))
    if device.type != "cuda" or not has_fp8(device):
        return False
    generator = torch.Generator(device).manual_seed(0)
    drawn = torch.randn(513, 256, device=device, dtype=torch.bfloat16, generator=generator)
    x, weight, bias = drawn[:256], drawn[256:512], drawn[512]
    data, scale = quantize_rows(weight, torch.float8_e4m3fn)
    expected = F.linear(x, dequantize(data, scale, x.dtype), bias).float()
    try:
        error = ((fp8_linear(x, data, scale, bias).float() - expected).norm() / expected.norm()).item()
    except (RuntimeError, ValueError) as failure:  # ValueError: a kind of scaling that the device has not
        logger.warning("fp8: products fail on this device, weights are dequantised instead: %s", failure)
        return False
    logger.info("fp8: products on %s, relative error %.1e", torch.cuda.get_device_name(device), error)
    return error < _AGREEMENT


def quantize_linears(module: nn.Module, layers: dict[str, torch.dtype], products: bool) -> None:
    """Put a `QuantizedLinear` in place of each named `nn.Linear`, under the same device context."""
    for name, dtype in layers.items():
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear), name
        bias = linear.bias is not None
        module.set_submodule(name, QuantizedLinear(linear.in_features, linear.out_features, bias, dtype, products))


def quantize_like(module: nn.Module, other: nn.Module) -> None:
    """The same where another network, of more layers of the same names, has eight bits."""
    names = {name for name, _ in module.named_modules()}
    for name, layer in other.named_modules():
        if isinstance(layer, QuantizedLinear) and name in names:
            quantize_linears(module, {name: layer.data.dtype}, layer.products)


def quantized_layers(module: nn.Module) -> list[str]:
    """Names of the layers of a module that are stored in eight bits."""
    return [name for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)]
