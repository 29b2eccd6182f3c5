"""Patches for Triton's interpreter where it differs from hardware.

It truncates on casts to bfloat16, rounds some casts to fp8 differently, and multiplies the bit patterns of bfloat16
matrices as integers.
"""

from typing import Any

import numpy as np
import torch


def to_bfloat16(data: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, rounded to nearest, ties to even."""
    return torch.from_numpy(np.array(data, np.float32)).bfloat16().view(torch.uint16).numpy()


def to_fp8(data: np.ndarray) -> np.ndarray:
    """float32 to the bits of e4m3, rounded to nearest, ties to even."""
    return torch.from_numpy(np.array(data, np.float32)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def from_bfloat16(data: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 to float32."""
    return (data.astype(np.uint32) << 16).view(np.float32)


def round_like_hardware() -> None:
    """Patch the interpreter of this process."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def convert_float(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        if (source, target) == (tl.float32, tl.bfloat16):
            return to_bfloat16(data)
        if (source, target) == (tl.float32, tl.float8e4nv):
            return to_fp8(data)
        return convert(data, source, target, rounding)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(from_bfloat16(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x
            for x in (a, b)
        )
        return dot(self, a, b, d, *options)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot
