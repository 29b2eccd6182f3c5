"""What the device can do at best, measured: large products and large copies, which every floor is held against."""

import logging
from dataclasses import dataclass

import torch

from benchmarks.speed.timing import measure
from wan.modules.quantized import quantize_rows, supports_fp8_matmul

logger = logging.getLogger(__name__)

SIDE = 8192
"""Of the square matrices on a GPU: 1.1 TFLOP, long enough to hide the start and too short to be throttled by heat."""
SIDE_ON_CPU = 1024
COPY_BYTES = 2**30
COPY_BYTES_ON_CPU = 2**26
REPEATS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakThroughput:
    """Operations a second of a large product in the network's dtype, and in fp8 where the device has it.

    Bytes a second, read and written, of a copy on the device; and from page-locked host memory, if that is another one.
    """

    product: float
    product_fp8: float | None
    copy: float
    upload: float | None


def measure_peak_throughput(device: torch.device, dtype: torch.dtype, side: int | None = None) -> PeakThroughput:
    """The fastest of several; `side` of the square matrices."""
    side = side or (SIDE_ON_CPU if device.type == "cpu" else SIDE)
    ceilings = PeakThroughput(
        product=product_rate(device, dtype, side),
        product_fp8=fp8_rate(device, side) if supports_fp8_matmul(device) else None,
        copy=copy_rate(device),
        upload=upload_rate(device) if device.type == "cuda" else None,
    )
    logger.info("ceilings of %s: %s", device, ceilings)
    return ceilings


def product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a product of square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / measure(lambda: torch.mm(a, b, out=out), device, REPEATS, warm_ups=3).min_s


def fp8_rate(device: torch.device, side: int) -> float:
    """The same with e4m3 matrices and a scale per row; rounding them is not counted."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    (a8, scale_a), (b8, scale_b) = (quantize_rows(each, torch.float8_e4m3fn) for each in (a, b))

    def product() -> torch.Tensor:
        return torch._scaled_mm(
            a8, b8.t(), scale_a=scale_a, scale_b=scale_b.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return 2 * side**3 / measure(product, device, REPEATS, warm_ups=3).min_s


def copy_rate(device: torch.device) -> float:
    """Bytes a second of a copy within the device's memory, those read and those written."""
    size = COPY_BYTES_ON_CPU if device.type == "cpu" else COPY_BYTES
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, REPEATS, warm_ups=3).min_s


def upload_rate(device: torch.device) -> float:
    """Bytes a second from page-locked host memory to the device."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    return COPY_BYTES / measure(lambda: target.copy_(source, non_blocking=True), device, REPEATS, warm_ups=3).min_s
