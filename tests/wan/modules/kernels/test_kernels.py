"""Kernels against their eager forms, on a GPU or in Triton's interpreter (see `test_interpreter.py`)."""

import os
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed on this platform")

from benchmarks.speed.forward import forward_call
from tests.wan.modules.kernels.interpreter import round_like_hardware
from wan.configs import WAN_CONFIGS
from wan.modules.kernels.dispatch import force_backend
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.verify_kernels import TOLERANCE, Size, kernel_errors, operations
from wan.types import VideoSize

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (INTERPRETED or torch.cuda.is_available()),
        reason="no CUDA device here; test_interpreter.py runs these tests in Triton's interpreter",
    ),
]

if INTERPRETED:
    round_like_hardware()

# Widths that are not powers of two, partly filled blocks, and a batch with one modulation per item.
SIZES = [
    Size(batch=2, tokens=9, heads=5, width=24, hidden=100, keys=7, channels=24),
    Size(batch=1, tokens=130, heads=3, width=32, hidden=2100, keys=70, channels=384),
    Size(batch=1, tokens=3, heads=40, width=128, hidden=13824, keys=2),
]
# float32: differences of summation order. 16 bits: values near the midpoint between two representable ones.
INTERPRETED_LIMITS = {torch.float32: 1e-6, torch.float16: 3e-4, torch.bfloat16: 2e-3}
LIMITS = INTERPRETED_LIMITS if INTERPRETED else TOLERANCE
INPUT_DEVICE = DEVICE if INTERPRETED or torch.cuda.is_available() else torch.device("cpu")
NAMES = sorted(operations(INPUT_DEVICE, torch.float32, SIZES[0]))
# The eager form rounds each head's mass to 16 bits before the mean; the kernel does not.
ROUNDS_LESS = {"class attention"}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_match_their_eager_forms(size: Size, dtype: torch.dtype) -> None:
    errors = kernel_errors(DEVICE, dtype, size)
    assert sorted(errors) == NAMES
    assert {name: error for name, error in errors.items() if not error < LIMITS[dtype]} == {}


@pytest.mark.parametrize("name", sorted(set(NAMES) - ROUNDS_LESS))
def test_nearly_all_16_bit_results_are_equal(name: str) -> None:
    """A rounding step that only one form has would change the last bit of many results."""
    size = SIZES[1]
    with torch.inference_mode():
        run = operations(DEVICE, torch.bfloat16, size)[name]
        with force_backend("eager"):
            expected = run()
        with force_backend("triton"):
            results = run()
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == reference.dtype
        assert (result.float() != reference.float()).float().mean() < 5e-3


@pytest.mark.skipif(not INTERPRETED, reason="the inputs of the forward are on the CPU")
def test_a_block_with_kernels_matches_the_eager_block() -> None:
    """All kernels, called by the modules that use them."""
    config = replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultiTalkTransformer(config).eval()
    with torch.inference_mode():
        forward = forward_call(model, VideoSize(frames=5, height=64, width=96), persons=2)
        with force_backend("eager"):
            expected = forward()
        with force_backend("triton"):
            result = forward()
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
