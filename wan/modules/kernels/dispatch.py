"""Backend of a fused operation: a Triton kernel on a CUDA device, or eager PyTorch, its reference.

Kernels are disabled until `wan.modules.verify_kernels.verify` has compared them with the eager forms and called
`enable` for the device and dtype. `MultiTalkPipeline` does so after loading. A module that is used without a pipeline
runs eagerly until `verify` is called. This module imports nothing else of the package.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor

KernelBackend = Literal["triton", "eager"]
ENV_VAR = "MULTITALK_KERNELS"
"""Environment variable: `auto`, the default, uses verified kernels; `eager` (or `plain`) disables all kernels."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_forced: ContextVar[KernelBackend | None] = ContextVar("forced", default=None)
_verified: set[tuple[torch.device, torch.dtype]] = set()


def use_triton(x: Tensor) -> bool:
    """Whether an operation on `x` runs as a Triton kernel.

    False with gradients enabled, since kernels have no backward, and under torch.compile, which generates its own
    kernels. A meta tensor, used to estimate memory, is treated as a tensor on a device where kernels are enabled.
    """
    if torch.is_grad_enabled() or x.dtype not in DTYPES or torch.compiler.is_compiling():
        return False
    backend = _forced.get()
    if backend is not None:
        return backend == "triton"
    if x.is_meta:
        return any(is_enabled(device, dtype) for device, dtype in _verified if dtype == x.dtype)
    return is_enabled(x.device, x.dtype)


@contextmanager
def force_backend(backend: KernelBackend) -> Iterator[None]:
    """Run every operation within this context on one backend, regardless of device and environment."""
    if backend not in get_args(KernelBackend):
        raise ValueError(f"{backend!r} is not a kernel backend; allowed are {', '.join(get_args(KernelBackend))}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether the environment disables kernels. Raises ValueError for an unknown value."""
    value = environ.get(ENV_VAR, "auto")
    if value not in ("auto", "eager", "plain"):
        raise ValueError(f"{ENV_VAR} is {value!r}; allowed are auto and eager (or plain)")
    return value != "auto"


def enable(device: torch.device, dtype: torch.dtype) -> None:
    """Use kernels for tensors of `dtype` on `device` from now on."""
    _verified.add((_with_index(device), dtype))


def is_enabled(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels were verified on this CUDA device and are not disabled by the environment."""
    return device.type == "cuda" and not is_disabled(os.environ) and (_with_index(device), dtype) in _verified


def _with_index(device: torch.device) -> torch.device:
    return device if device.index is not None else torch.device(device.type, torch.cuda.current_device())


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of the tensor `on`; a no-op on the meta device."""
    if not on.is_meta:
        with torch.cuda.device_of(on):
            kernel[grid](*arguments, **constants)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`; sides of Triton tiles must be powers of two."""
    return 1 << (size - 1).bit_length()
