"""Every kernel once beside its plain form, on small random tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wan.modules.gelu import TanhGELU
from wan.modules.kernels.dispatch import force_backend
from wan.modules.norms import LayerNorm, RMSNorm, gated_residual
from wan.modules.quantized import has_fp8, quantize_activations
from wan.modules.rope import RotaryEmbedding, apply_label_rope
from wan.modules.speaker_labels import SpeakerMasks, attention_to_classes

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
"""Largest relative error of a kernel against its plain form: 16-bit results may differ in their last bit, and matrix
products in float32 may be rounded to fewer bits by a device."""
_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a token stream; the default has the published network's heads, whose kernels are then compiled already."""

    batch: int = 1
    tokens: int = 200
    heads: int = 40
    width: int = 128
    hidden: int = 3000
    keys: int = 70

    @property
    def dim(self) -> int:
        """Model width."""
        return self.heads * self.width


Operations = dict[str, Callable[[], tuple[Tensor, ...]]]
DEFAULT = Size()


def kernel_errors(device: torch.device, dtype: torch.dtype, size: Size = DEFAULT) -> dict[str, float]:
    """Relative error (L2) of each operation's kernel against its plain form; infinite where it is not a number."""
    found = {}
    with torch.inference_mode():
        for name, run in operations(device, dtype, size).items():
            with force_backend("plain"):
                expected = run()
            with force_backend("triton"):
                results = run()
            shares = [_relative(a, b) for a, b in zip(results, expected, strict=True)]
            found[name] = max(share if share == share else float("inf") for share in shares)
    return found


def _relative(result: Tensor, expected: Tensor) -> float:
    return ((result.float() - expected.float()).norm() / expected.float().norm()).item()


def operations(device: torch.device, dtype: torch.dtype, size: Size) -> Operations:
    """All fused operations, by name, on fixed inputs; what they may overwrite they get as a copy."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x, y = (draw(size.batch, size.tokens, size.dim, dtype=dtype) for _ in range(2))
    hidden = draw(size.batch, size.tokens, size.hidden, dtype=dtype)
    q, k = (tokens.unflatten(-1, (size.heads, size.width)) for tokens in (x, y))
    shift, scale, gate = draw(size.batch, 6, size.dim).unbind(1)[:3]
    modulated = LayerNorm(size.dim, _EPS, elementwise_affine=False)
    affine = LayerNorm(size.dim, _EPS, device=device, dtype=dtype)
    rms = RMSNorm(size.dim, _EPS).to(device, dtype)
    for parameter in (affine.weight, affine.bias, rms.weight):
        parameter.data = draw(size.dim, dtype=dtype)
    angles = draw(1, size.tokens, 1, size.width // 2)
    rotation = RotaryEmbedding(angles.cos(), angles.sin())
    labels = 24 * torch.rand(size.batch, size.tokens, generator=generator, device=device)
    columns = torch.rand(size.batch, size.keys, 3, generator=generator, device=device).round()
    masks = SpeakerMasks(columns, columns.sum(1))
    found: Operations = {
        "modulated norm": lambda: (modulated(x, (shift, scale)),),
        "affine norm": lambda: (affine(x),),
        "gated sum": lambda: (gated_residual(x, y.clone(), gate),),
        "gated sum, affine norm": lambda: affine.of_sum(x, y.clone(), gate),
        "sum, affine norm": lambda: affine.of_sum(x, y.clone()),
        "sum, modulated norm": lambda: modulated.of_sum(x, y.clone(), modulation=(shift, scale)),
        "RMS norm": lambda: (rms(x, size.heads),),
        "RMS norm, RoPE": lambda: (rms(x, size.heads, rotation),),
        "label RoPE": lambda: (apply_label_rope(q, labels),),
        "GELU": lambda: (TanhGELU()(hidden.clone()),),
        "class mass": lambda: (attention_to_classes(q, k, masks),),
    }
    if has_fp8(device):
        rows = hidden.flatten(0, 1)
        found["rows to fp8"] = lambda: quantize_activations(rows, torch.float8_e4m3fn)
    return found
