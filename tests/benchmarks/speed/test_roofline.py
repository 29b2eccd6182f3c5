"""Operations counted from the configuration are those that are known, and those that PyTorch counts."""

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
    ("height", "width", "tokens", "parts", "floor_s"),
    [
        (448, 896, 32_928, (925, 888, 1839), 2.33),
        (640, 640, 33_600, (944, 925, 1895), 2.40),
        (704, 1280, 73_920, (2077, 4476, 6606), 8.36),
        (720, 1280, 75_600, (2124, 4682, 6860), 8.68),
    ],
)
def test_the_known_table(height: int, width: int, tokens: int, parts: tuple[int, ...], floor_s: float) -> None:
    size = VideoSize(frames=81, height=height, width=width)
    assert roofline.tokens(size) == tokens
    found = roofline.table(roofline.forward_work(LARGE, size))
    assert [each / TERA for each in found.values()] == pytest.approx(parts, abs=0.6)
    h200 = PeakThroughput(product=790 * TERA, product_fp8=None, copy=4.3 * TERA, upload=None)
    assert roofline.forward_seconds(LARGE, size, 1, h200, 37.8e9) == pytest.approx(floor_s, abs=0.02)


@pytest.mark.parametrize("persons", [1, 2])
def test_what_pytorch_counts(puppet: ModelConfig, persons: int) -> None:
    """Of a real forward and its constants, attention written out as products; labels pad their values, and do more."""
    config, size = puppet.transformer, VideoSize(frames=9, height=64, width=64)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model = MultiTalkTransformer(config).eval()
        forward_call(model, size, persons)()
    work = roofline.forward_work(config, size, persons)
    counted = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in counted.items() if "bmm" in name)
    linear = sum(count for name, count in counted.items() if "bmm" not in name)
    assert linear == pytest.approx(roofline.total(work.values()).linear, rel=0.002)
    if persons == 1:
        assert attention == pytest.approx(roofline.total(work.values()).attention, rel=0.002)
    else:
        assert attention >= roofline.total(work.values()).attention


def test_few_tokens_are_bound_by_the_weights() -> None:
    ceilings = PeakThroughput(product=1e12, product_fp8=4e12, copy=1e12, upload=None)
    size = VideoSize(frames=1, height=16, width=16)
    assert roofline.forward_seconds(LARGE, size, 1, ceilings, 37.8e9) == pytest.approx(37.8e-3, rel=0.1)
    products = roofline.Work(linear=4e12, attention=1e12)
    assert roofline.seconds(products, ceilings) == pytest.approx(5)
    assert roofline.seconds(products, ceilings, eight_bits=True) == pytest.approx(2)
    assert roofline.seconds(products, replace(ceilings, product_fp8=None), eight_bits=True) == pytest.approx(5)


def test_ceilings_are_measured() -> None:
    found = measure_peak_throughput(CPU, torch.float32, side=128)
    assert found.product > 1e8
    assert found.copy > 1e8
    assert found.product_fp8 is None
    assert found.upload is None
