"""The roofline model agrees with known FLOP counts and with PyTorch's FlopCounterMode."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import roofline
from benchmarks.speed.forward import forward_call
from benchmarks.speed.peak_throughput import PeakThroughput, measure_peak_throughput
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

CPU = torch.device("cpu")
LARGE = WAN_CONFIGS["multitalk-14B"].transformer
TERA = 1e12


@pytest.mark.parametrize(
    ("height", "width", "tokens", "teraflops", "seconds"),
    [
        (448, 896, 32_928, (925, 888, 1839), 2.33),
        (640, 640, 33_600, (944, 925, 1895), 2.40),
        (704, 1280, 73_920, (2077, 4476, 6606), 8.36),
        (720, 1280, 75_600, (2124, 4682, 6860), 8.68),
    ],
)
def test_known_values_of_the_14b_model(
    height: int, width: int, tokens: int, teraflops: tuple[int, ...], seconds: float
) -> None:
    size = VideoSize(frames=81, height=height, width=width)
    assert roofline.num_tokens(size) == tokens
    flops = roofline.summarize(roofline.forward_work(LARGE, size))
    assert [each / TERA for each in flops.values()] == pytest.approx(teraflops, abs=0.6)
    h200 = PeakThroughput(matmul=790 * TERA, matmul_fp8=None, copy=4.3 * TERA, host_to_device=None)
    assert roofline.min_forward_seconds(LARGE, size, 1, h200, 37.8e9) == pytest.approx(seconds, abs=0.02)


@pytest.mark.parametrize("persons", [1, 2])
def test_flops_agree_with_flop_counter(puppet: ModelConfig, persons: int) -> None:
    """Forward and per-clip constants, with attention as matmuls; label attention pads its values and does more."""
    config, size = puppet.transformer, VideoSize(frames=9, height=64, width=64)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model = MultiTalkTransformer(config).eval()
        forward_call(model, size, persons)()
    work = roofline.total_work(roofline.forward_work(config, size, persons).values())
    counted = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in counted.items() if "bmm" in name)
    linear = sum(count for name, count in counted.items() if "bmm" not in name)
    assert linear == pytest.approx(work.linear, rel=0.002)
    if persons == 1:
        assert attention == pytest.approx(work.attention, rel=0.002)
    else:
        assert attention >= work.attention


def test_few_tokens_are_bound_by_weight_bandwidth() -> None:
    peak = PeakThroughput(matmul=1e12, matmul_fp8=4e12, copy=1e12, host_to_device=None)
    size = VideoSize(frames=1, height=16, width=16)
    assert roofline.min_forward_seconds(LARGE, size, 1, peak, 37.8e9) == pytest.approx(37.8e-3, rel=0.1)
    work = roofline.Work(linear=4e12, attention=1e12)
    assert roofline.min_seconds(work, peak) == pytest.approx(5)
    assert roofline.min_seconds(work, peak, fp8=True) == pytest.approx(2)
    assert roofline.min_seconds(work, replace(peak, matmul_fp8=None), fp8=True) == pytest.approx(5)


def test_peak_throughput_is_measured() -> None:
    peak = measure_peak_throughput(CPU, torch.float32, side=128)
    assert min(peak.matmul, peak.copy) > 1e8
    assert peak.matmul_fp8 is None
    assert peak.host_to_device is None
