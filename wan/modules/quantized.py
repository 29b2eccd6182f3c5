"""Linear layers with weights quantized to int8 or fp8 (e4m3), one scale per output row.

Shapes: O outputs, I inputs, R rows of activations, K rank of a LoRA.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.kernels.dispatch import use_triton

logger = logging.getLogger(__name__)

MAX_VALUE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The storage formats and the largest value used of each."""
_FP8_CAPABILITY = (8, 9)
_TOLERANCE = 6e-2
"""Largest relative error of an fp8 product against the product of dequantized weights."""
_assumed_on_meta: ContextVar[bool] = ContextVar("assumed_on_meta", default=False)


class QuantizedRows(NamedTuple):
    """Activations in eight bits and their float32 scales."""

    data_RI: Tensor
    scale_R1: Tensor


class QuantizedLinear(nn.Module):
    """x (data * scale)^T + bias, multiplied in fp8 if enabled and supported, else by dequantized weights."""

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, fp8_matmul: bool) -> None:
        """`fp8_matmul`: also quantize bfloat16 activations to fp8, per row, where the device has fp8 matmuls."""
        super().__init__()
        assert dtype in MAX_VALUE
        self.fp8_matmul = fp8_matmul and dtype == torch.float8_e4m3fn
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
        """None, since transformers casts activations to the dtype of `weight`, which must not be an eight-bit one."""
        return

    @property
    def shape(self) -> torch.Size:
        """O x I of the weight."""
        return self.data.shape

    def product(self, x: Tensor, rows: QuantizedRows | None = None) -> Tensor:
        """x W^T + bias; `rows` are those of x if they have been quantized already."""
        if self.multiplies_fp8(x):
            return fp8_linear(x, self.data, self.scale, self.bias, rows)
        return F.linear(x, dequantize(self.data, self.scale, x.dtype), self.bias)

    def multiplies_fp8(self, x: Tensor) -> bool:
        """Whether the product with x is computed in fp8."""
        assumed = x.is_meta and _assumed_on_meta.get()
        return self.fp8_matmul and x.dtype == torch.bfloat16 and (assumed or supports_fp8_matmul(x.device))

    def like(self, linear: nn.Linear) -> "QuantizedLinear":
        """An uninitialized layer of this format in place of another one."""
        bias = linear.bias is not None
        return QuantizedLinear(linear.in_features, linear.out_features, bias, self.data.dtype, self.fp8_matmul)

    def forward(self, x: Tensor, rows: QuantizedRows | None = None) -> Tensor:
        y = self.product(x, rows)
        if self.down is not None and self.up is not None:  # in place: a second result would be the largest tensor
            y.flatten(0, -2).addmm_(F.linear(x, self.down).flatten(0, -2), self.up.t())
        return y

    def set_lora(self, down_KI: Tensor | None, up_OK: Tensor | None) -> None:
        """Add the output of an unmerged LoRA, x (up @ down)^T; None removes it."""
        self.down, self.up = down_KI, up_OK


def quantize_rows(weight_OI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Symmetric quantization to `dtype`, each row scaled so that its largest magnitude becomes MAX_VALUE.

    Returns the data, O x I, and the float32 scale, O x 1; a row of zeros has scale 1.
    """
    weight = weight_OI.float()
    scale = weight.abs().amax(dim=-1, keepdim=True) / MAX_VALUE[dtype]
    scale = torch.where(scale == 0, 1.0, scale)
    scaled = (weight / scale).clamp_(-MAX_VALUE[dtype], MAX_VALUE[dtype])
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scale


def quantize_activations(x_RI: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """`quantize_rows` to a floating-point format: one Triton kernel in place of seven PyTorch operations."""
    if use_triton(x_RI):
        from wan.modules.kernels import quantize as kernels

        return QuantizedRows(*kernels.quantize(x_RI, dtype, MAX_VALUE[dtype]))
    return QuantizedRows(*quantize_rows(x_RI, dtype))


def apply_linears(x: Tensor, layers: Sequence[nn.Module]) -> Iterator[Tensor]:
    """The outputs of several linear layers of one input, which is quantized once if they multiply in fp8."""
    fp8 = [layer for layer in layers if isinstance(layer, QuantizedLinear) and layer.multiplies_fp8(x)]
    rows = quantize_activations(x.flatten(0, -2), fp8[0].data.dtype) if fp8 else None
    for layer in layers:
        yield layer(x, rows) if layer in fp8 else layer(x)


def dequantize(data_OI: Tensor, scale_O1: Tensor, dtype: torch.dtype) -> Tensor:
    """data * scale in float32, rounded to `dtype`."""
    return (data_OI.float() * scale_O1.float()).to(dtype)


def fp8_linear(
    x: Tensor, data_OI: Tensor, scale_O1: Tensor, bias: Tensor | None, rows: QuantizedRows | None = None
) -> Tensor:
    """x (data * scale)^T + bias as a product of e4m3 matrices, with activations quantized per row.

    Scales and bias are applied to the float32 sums, which are then rounded to the dtype of x. `rows`: x, quantized.
    """
    rows = rows or quantize_activations(x.flatten(0, -2), data_OI.dtype)
    y = torch._scaled_mm(
        rows.data_RI,
        data_OI.t(),
        scale_a=rows.scale_R1,
        scale_b=scale_O1.t(),
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return y.unflatten(0, x.shape[:-1])


def has_fp8(device: torch.device) -> bool:
    """Whether the device can store and cast fp8: GPUs from Ada on, and CPUs, which emulate it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY


@contextmanager
def assume_fp8_matmul(assumed: bool) -> Iterator[None]:
    """Estimate memory as for a device that multiplies in fp8, whatever this machine has."""
    token = _assumed_on_meta.set(assumed)
    try:
        yield
    finally:
        _assumed_on_meta.reset(token)


@functools.cache
def supports_fp8_matmul(device: torch.device) -> bool:
    """Whether the device has fp8 matmuls with row scales that agree with dequantized weights; tried once per device.

    The meta device, used to estimate memory, is treated as the current CUDA device.
    """
    if device.type == "meta" and torch.cuda.is_available():
        return supports_fp8_matmul(torch.device("cuda", torch.cuda.current_device()))
    if device.type != "cuda" or not has_fp8(device):
        return False
    generator = torch.Generator(device).manual_seed(0)
    sample = torch.randn(513, 256, device=device, dtype=torch.bfloat16, generator=generator)
    x, weight, bias = sample[:256], sample[256:512], sample[512]
    data, scale = quantize_rows(weight, torch.float8_e4m3fn)
    expected = F.linear(x, dequantize(data, scale, x.dtype), bias).float()
    try:
        error = ((fp8_linear(x, data, scale, bias).float() - expected).norm() / expected.norm()).item()
    except (RuntimeError, ValueError) as failure:  # ValueError: unsupported scaling
        logger.warning("fp8: matmuls fail on this device, weights are dequantized instead: %s", failure)
        return False
    logger.info("fp8: matmuls on %s, relative error %.1e", torch.cuda.get_device_name(device), error)
    return error < _TOLERANCE


def quantize_linears(module: nn.Module, layers: dict[str, torch.dtype], fp8_matmul: bool) -> None:
    """Replace each named `nn.Linear` by an uninitialized `QuantizedLinear`, on the device of the current context."""
    for name, dtype in layers.items():
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear), name
        bias = linear.bias is not None
        module.set_submodule(name, QuantizedLinear(linear.in_features, linear.out_features, bias, dtype, fp8_matmul))


def quantize_like(module: nn.Module, other: nn.Module) -> None:
    """Replace the layers of `module` whose namesakes in `other`, a network with more layers, are quantized."""
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in other.named_modules():
        if isinstance(layer, QuantizedLinear) and name in linears:
            module.set_submodule(name, layer.like(linears[name]))


def quantized_layers(module: nn.Module) -> list[str]:
    """Names of the quantized layers of a module."""
    return [name for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)]
