"""Compilation of the kernels without a GPU: all compile for every architecture, and video sizes share variants."""

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed on this platform")


from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
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
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, HOPPER: 227, 100: 227, 120: 99}
"""Maximum KB of a thread block by compute capability: A100, RTX 30, RTX 40, H100, B200, RTX 50 (CUDA)."""
HAS_FP8 = 89
VARIANTS = 13
"""Compiled variants of all kernels in one dtype: six of layer_norm, two of rms_norm_rope, one of each other kernel."""
MATRIX_INSTRUCTION = {HOPPER: "wgmma", 100: "tcgen05.mma"}


class FakeDriver:
    """A Triton driver with one GPU of a compute capability, as far as compiling needs it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[Any]]]:
    """Sets the compute capability; returns the kernels compiled from then on. None is launched."""

    def set_capability(capability: int) -> list[Any]:
        binaries: list[Any] = []

        def compile_only(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **constants: Any) -> None:
            binaries.append(kernel.run(*arguments, grid=grid, warmup=True, **constants))

        for module in (layer_norm, rope, gelu, quantize, class_attention, vae_norm):
            monkeypatch.setattr(module, "launch", compile_only)
        monkeypatch.setattr(verify_kernels, "has_fp8", lambda device: capability >= HAS_FP8)
        for kernel in KERNELS:
            kernel.device_caches.clear()
        driver.set_active(FakeDriver(capability))
        return binaries

    previous = driver._active
    try:
        yield set_capability
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


def spilled_bytes(kernel: Any, capability: int, folder: Path) -> int:
    """Bytes of registers that the assembler spilled to memory."""
    path = folder / "kernel.ptx"
    path.write_text(kernel.asm["ptx"])
    target = re.search(r"\.target (\w+)", kernel.asm["ptx"])
    assert target
    command = [get_ptxas(capability).path, "-v", "--gpu-name", target[1], "-o", "/dev/null", str(path)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill", report)))


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_every_kernel_compiles(compile_for: Callable[[int], list[Any]], capability: int, tmp_path: Path) -> None:
    """To machine code, at the published network's size, within the shared memory of a block and without spills."""
    compiled = compile_for(capability)
    compile_all(PUBLISHED, torch.bfloat16)
    num_variants = VARIANTS - (capability < HAS_FP8)
    assert sum(variants().values()) == len({id(kernel) for kernel in compiled}) == num_variants
    for kernel in compiled:
        assert kernel.asm["cubin"]
        assert f".target sm_{capability}" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= SHARED_MEMORY[capability] * 1024, kernel.name
        assert spilled_bytes(kernel, capability, tmp_path) == 0, kernel.name
    instruction = MATRIX_INSTRUCTION.get(capability, "mma.sync")
    assert {kernel.name for kernel in compiled if instruction in kernel.asm["ptx"]} == {"_class_attention"}


def test_every_kernel_compiles_in_float16(compile_for: Callable[[int], list[Any]]) -> None:
    compiled = compile_for(HOPPER)
    compile_all(PUBLISHED, torch.float16)
    assert len({id(kernel) for kernel in compiled}) == VARIANTS


def token_counts() -> list[int]:
    """Token counts of all buckets of the published network."""
    config = WAN_CONFIGS["multitalk-14B"]
    sizes = [
        VideoSize(frames=config.frame_num, height=height, width=width)
        for buckets in config.buckets.values()
        for height, width in buckets.values()
    ]
    return sorted({size.grid[0] * size.grid[1] * size.grid[2] for size in sizes})


def test_all_video_sizes_share_the_compiled_kernels(compile_for: Callable[[int], list[Any]]) -> None:
    """Triton specializes integer arguments on 1 and on multiples of 16 unless told not to."""
    compile_for(HOPPER)
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
