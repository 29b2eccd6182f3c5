"""Which form of a fused operation runs: a Triton kernel on a CUDA device, or plain PyTorch, its specification."""

import functools
import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Form = Literal["triton", "plain"]
SETTING = "MULTITALK_KERNELS"
"""Environment variable; `plain` switches the kernels off, `auto` is the default."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_forced: ContextVar[Form | None] = ContextVar("forced", default=None)


def use_triton(x: Tensor) -> bool:
    """Whether the operation on `x` runs as a Triton kernel.

    Not where gradients are wanted, which kernels do not have, nor under torch.compile, which makes its own. A tensor on
    the meta device, which only counts memory, is treated as one on this machine's own device.
    """
    if torch.is_grad_enabled() or x.dtype not in DTYPES or torch.compiler.is_compiling():
        return False
    form = _forced.get()
    if form is not None:
        return form == "triton"
    if x.is_meta and torch.cuda.is_available():
        return is_enabled(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16)
    return is_enabled(x.device, x.dtype)


@contextmanager
def force_backend(form: Form) -> Iterator[None]:
    """Within this context every operation runs in the given form, whatever the device and the setting are."""
    if form not in get_args(Form):
        raise ValueError(f"{form!r} is no form of a kernel; allowed are {', '.join(get_args(Form))}")
    token = _forced.set(form)
    try:
        yield
    finally:
        _forced.reset(token)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """What the operator's setting says; ValueError for a value it cannot have."""
    value = environ.get(SETTING, "auto")
    if value not in ("auto", "plain"):
        raise ValueError(f"{SETTING} is {value!r}; allowed are auto, plain")
    return value == "plain"


def is_enabled(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels are switched on, and agree with the plain forms on this device, which must be a CUDA device."""
    return device.type == "cuda" and not is_disabled(os.environ) and _agrees(device, dtype)


@functools.cache
def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Try every kernel once; a failure is logged, and the plain forms are used."""
    try:
        trial = importlib.import_module("wan.modules.verify_kernels")
        errors = cast(dict[str, float], trial.errors(device, dtype))
    except Exception as failure:  # noqa: BLE001 - without Triton, a compiler or a suitable device there are no kernels
        logger.warning("kernels: Triton's fail here, plain PyTorch is used: %s", failure)
        return False
    wrong = {name: error for name, error in errors.items() if not error < trial.AGREEMENT[dtype]}
    if wrong:
        logger.warning("kernels: plain PyTorch is used, since Triton's disagree with it: %s", wrong)
        return False
    logger.info("kernels: Triton's for %s on %s, relative error at most %.1e", dtype, device, max(errors.values()))
    return True


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of the tensor `on`; on the meta device nothing has to be done."""
    if not on.is_meta:
        with torch.cuda.device_of(on):
            kernel[grid](*arguments, **constants)


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`: Triton's tiles have such sides."""
    return 1 << (size - 1).bit_length()
