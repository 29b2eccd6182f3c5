"""Compilation of the kernels for a Hopper GPU, without a GPU: all compile, and video sizes share compiled variants."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed on this platform")

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from wan.configs import WAN_CONFIGS
from wan.modules import verify_kernels
from wan.modules.kernels import class_attention, gelu, layer_norm, quantize, rope, vae_norm
from wan.modules.kernels.dispatch import force_backend
from wan.modules.verify_kernels import Size, operations
from wan.types import VideoSize

KERNELS = [
    layer_norm._add_layer_norm,
    rope._rms_norm_rope,
    rope._label_rope,
    gelu._gelu,
    quantize._quantize,
    class_attention._class_attention,
    vae_norm._rms_norm_silu,
]
PUBLISHED = Size(tokens=2, hidden=13824, keys=2)
HOPPER = 90
VARIANTS = 13
"""Compiled variants of all kernels in one dtype: six of layer_norm, two of rms_norm_rope, one of each other kernel."""
SHARED_MEMORY = 227 * 1024
"""Maximum bytes of a thread block on Hopper."""


class FakeHopperDriver:
    """A Triton driver with one Hopper GPU, as far as compiling needs it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", HOPPER, 32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The kernels compiled during the test; none is launched."""
    binaries: list[Any] = []

    def compile_only(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **constants: Any) -> None:
        binaries.append(kernel.run(*arguments, grid=grid, warmup=True, **constants))

    for module in (layer_norm, rope, gelu, quantize, class_attention, vae_norm):
        monkeypatch.setattr(module, "launch", compile_only)
    for kernel in KERNELS:
        kernel.device_caches.clear()
    previous = driver._active
    driver.set_active(FakeHopperDriver())
    try:
        yield binaries
    finally:
        driver._active = previous
        for kernel in KERNELS:
            kernel.device_caches.clear()


def compile_all(size: Size, dtype: torch.dtype) -> None:
    with torch.inference_mode(), force_backend("triton"):
        for run in operations(torch.device("cpu"), dtype, size).values():
            run()


def variants() -> dict[str, int]:
    """Number of compiled variants of each kernel in Triton's cache."""
    return {kernel.fn.__name__: len(kernel.device_caches[0][0]) for kernel in KERNELS}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_kernel_compiles_for_hopper(compiled: list[Any], dtype: torch.dtype) -> None:
    """To machine code, at the published network's size and within the shared memory of a block."""
    compile_all(PUBLISHED, dtype)
    assert sum(variants().values()) == len({id(kernel) for kernel in compiled}) == VARIANTS
    for kernel in compiled:
        assert kernel.asm["cubin"]
        assert ".target sm_90a" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= SHARED_MEMORY
    assert [kernel.name for kernel in compiled if "wgmma" in kernel.asm["ptx"]] == ["_class_attention"]


def token_counts() -> list[int]:
    """Token counts of all buckets of the published network."""
    config = WAN_CONFIGS["multitalk-14B"]
    sizes = [
        VideoSize(frames=config.frame_num, height=height, width=width)
        for buckets in config.buckets.values()
        for height, width in buckets.values()
    ]
    return sorted({size.grid[0] * size.grid[1] * size.grid[2] for size in sizes})


def test_all_video_sizes_share_the_compiled_kernels(compiled: list[Any]) -> None:
    """Triton specializes integer arguments on 1 and on multiples of 16 unless told not to."""
    counts = token_counts()
    assert len(counts) == 19
    narrow = replace(PUBLISHED, heads=1, width=32, hidden=16, channels=16)
    compile_all(narrow, torch.bfloat16)
    first = variants()
    assert sum(first.values()) == VARIANTS
    for tokens in (*counts, 21, 999):
        compile_all(replace(narrow, tokens=tokens, keys=tokens // 21), torch.bfloat16)
    assert variants() == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_all_video_sizes_share_the_compiled_kernels_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    verify_kernels.kernel_errors(device, torch.bfloat16, replace(PUBLISHED, tokens=2))
    before = [len(kernel.device_caches[device.index][0]) for kernel in KERNELS]
    for tokens in token_counts():
        size = replace(PUBLISHED, tokens=tokens, keys=tokens // 21)
        with torch.inference_mode(), force_backend("triton"):
            for run in operations(device, torch.bfloat16, size).values():
                run()
    assert [len(kernel.device_caches[device.index][0]) for kernel in KERNELS] == before
