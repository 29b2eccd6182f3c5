"""Measured peak throughput of a device: large matrix products and large copies. Roofline bounds are relative to it."""

import logging
from dataclasses import dataclass

import torch

from benchmarks.speed.timing import measure
from wan.modules.quantized import quantize_rows, supports_fp8_matmul

logger = logging.getLogger(__name__)

SIDE = 8192
"""Side of the square matrices on a GPU: 1.1 TFLOP, long enough to hide the launch, too short for thermal throttling."""
SIDE_ON_CPU = 1024
COPY_BYTES = 2**30
COPY_BYTES_ON_CPU = 2**26
REPEATS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakThroughput:
    """Peak rates of a device.

    `matmul` and `matmul_fp8`: FLOP/s of a large product in the network's dtype and in fp8 (None if unsupported).
    `copy`: bytes read plus bytes written per second by a copy within the device's memory. `host_to_device`: bytes per
    second from pinned host memory, None on a CPU.
    """

    matmul: float
    matmul_fp8: float | None
    copy: float
    host_to_device: float | None


def measure_peak_throughput(device: torch.device, dtype: torch.dtype, side: int | None = None) -> PeakThroughput:
    """Measure every rate, each as the fastest of `REPEATS`; `side` is that of the square matrices."""
    side = side or (SIDE_ON_CPU if device.type == "cpu" else SIDE)
    peak = PeakThroughput(
        matmul=matmul_rate(device, dtype, side),
        matmul_fp8=fp8_matmul_rate(device, side) if supports_fp8_matmul(device) else None,
        copy=copy_rate(device),
        host_to_device=host_to_device_rate(device) if device.type == "cuda" else None,
    )
    logger.info("peak throughput of %s: %s", device, peak)
    return peak


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / measure(lambda: torch.mm(a, b, out=out), device, REPEATS, warm_ups=3).min_s


def fp8_matmul_rate(device: torch.device, side: int) -> float:
    """FLOP/s of a product of two e4m3 matrices with row-wise scales; quantization is not included."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    (a8, scale_a), (b8, scale_b) = (quantize_rows(each, torch.float8_e4m3fn) for each in (a, b))

    def matmul() -> torch.Tensor:
        return torch._scaled_mm(
            a8, b8.t(), scale_a=scale_a, scale_b=scale_b.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return 2 * side**3 / measure(matmul, device, REPEATS, warm_ups=3).min_s


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written per second by a copy within the device's memory."""
    size = COPY_BYTES_ON_CPU if device.type == "cpu" else COPY_BYTES
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, REPEATS, warm_ups=3).min_s


def host_to_device_rate(device: torch.device) -> float:
    """Bytes per second from pinned host memory to the device."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    return COPY_BYTES / measure(lambda: target.copy_(source, non_blocking=True), device, REPEATS, warm_ups=3).min_s
