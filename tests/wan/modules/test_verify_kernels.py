"""Kernels against their plain forms: on a GPU, or in Triton's interpreter (see `test_interpreter.py`)."""

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

# Widths that are no powers of two, rows that fill no block, items of a batch with modulations of their own.
SIZES = [
    Size(batch=2, tokens=9, heads=5, width=24, hidden=100, keys=7),
    Size(batch=1, tokens=130, heads=3, width=32, hidden=2100, keys=70),
    Size(batch=1, tokens=3, heads=40, width=128, hidden=13824, keys=2),
]
# float32 but for the order of sums; 16 bits but for results that lie on the border between two roundings.
INTERPRETED_LIMITS = {torch.float32: 1e-6, torch.float16: 3e-4, torch.bfloat16: 2e-3}
LIMITS = INTERPRETED_LIMITS if INTERPRETED else TOLERANCE
HERE = DEVICE if INTERPRETED or torch.cuda.is_available() else torch.device("cpu")
NAMES = sorted(operations(HERE, torch.float32, SIZES[0]))
# The plain form rounds each head's mass to 16 bits before their mean; the kernel does not.
ROUNDS_LESS = {"class mass"}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_agree_with_their_plain_forms(size: Size, dtype: torch.dtype) -> None:
    found = kernel_errors(DEVICE, dtype, size)
    assert sorted(found) == NAMES
    assert {name: error for name, error in found.items() if not error < LIMITS[dtype]} == {}


@pytest.mark.parametrize("name", sorted(set(NAMES) - ROUNDS_LESS))
def test_nearly_all_16_bit_results_are_the_same(name: str) -> None:
    """A rounding point that one form has and the other has not would change a share of the last bits."""
    size = SIZES[1]
    with torch.inference_mode():
        run = operations(DEVICE, torch.bfloat16, size)[name]
        with force_backend("plain"):
            expected = run()
        with force_backend("triton"):
            results = run()
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert (result.float() != wanted.float()).float().mean() < 5e-3


@pytest.mark.skipif(not INTERPRETED, reason="the forward's inputs are made on the processor")
def test_a_block_with_kernels_is_the_plain_block() -> None:
    """All of them through the modules that use them: gates, labels and the head included."""
    config = replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultiTalkTransformer(config).eval()
    with torch.inference_mode():
        forward = forward_call(model, VideoSize(frames=5, height=64, width=96), persons=2)
        with force_backend("plain"):
            expected = forward()
        with force_backend("triton"):
            result = forward()
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
