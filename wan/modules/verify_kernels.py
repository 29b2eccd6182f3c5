"""Verification of the Triton kernels: each one against its eager form, on small random tensors.

Shapes: B batch, L tokens, D model width, A attention heads, E head width, S keys.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wan.modules.gelu import TanhGELU
from wan.modules.kernels.dispatch import enable, force_backend, is_disabled, is_enabled
from wan.modules.norms import LayerNorm, RMSNorm, gated_residual
from wan.modules.quantized import has_fp8, quantize_activations
from wan.modules.rope import RotaryEmbedding, apply_label_rope
from wan.modules.speaker_labels import SpeakerMasks, attention_to_classes
from wan.modules.vae_layers import concat_norm_silu

logger = logging.getLogger(__name__)

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
"""Largest relative error of a kernel against its eager form: 16-bit results may differ in the last bit, and a GPU may
round the factors of float32 matrix products to fewer bits."""
_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of a token stream. The default has the published network's heads, so the kernels compiled here are reused.

    `width` is that of a head, `hidden` that of a feed-forward layer, `channels` that of the VAE's activations.
    """

    batch: int = 1
    tokens: int = 200
    heads: int = 40
    width: int = 128
    hidden: int = 3000
    keys: int = 70
    channels: int = 96

    @property
    def dim(self) -> int:
        """Model width D."""
        return self.heads * self.width


Operations = dict[str, Callable[[], tuple[Tensor, ...]]]
DEFAULT = Size()


def verify(device: torch.device, dtype: torch.dtype) -> None:
    """Enable the kernels for `dtype` on a CUDA device if every one agrees with its eager form; log the result.

    Compiles and runs each kernel once. Returns at once on other devices, where the environment disables kernels
    (MULTITALK_KERNELS), and where they are enabled already.
    """
    if device.type != "cuda" or is_disabled(os.environ) or is_enabled(device, dtype):
        return
    try:
        errors = kernel_errors(device, dtype)
    except Exception as failure:  # noqa: BLE001 - a missing Triton, compiler or GPU feature must not stop the pipeline
        logger.warning("kernels: Triton kernels fail here, eager PyTorch is used: %s", failure)
        return
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE[dtype]}
    if wrong:
        logger.warning("kernels: Triton kernels disagree with eager PyTorch, which is used: %s", wrong)
        return
    logger.info("kernels: Triton for %s on %s, relative error at most %.1e", dtype, device, max(errors.values()))
    enable(device, dtype)


def kernel_errors(device: torch.device, dtype: torch.dtype, size: Size = DEFAULT) -> dict[str, float]:
    """Relative L2 error of each operation's kernel against its eager form; infinite if that is NaN."""
    errors = {}
    with torch.inference_mode():
        for name, run in operations(device, dtype, size).items():
            with force_backend("eager"):
                expected = run()
            with force_backend("triton"):
                results = run()
            relative = [_relative_error(a, b) for a, b in zip(results, expected, strict=True)]
            errors[name] = max(float("inf") if math.isnan(error) else error for error in relative)
    return errors


def _relative_error(result: Tensor, expected: Tensor) -> float:
    return ((result.float() - expected.float()).norm() / expected.float().norm()).item()


def operations(device: torch.device, dtype: torch.dtype, size: Size) -> Operations:
    """All fused operations by name, on fixed inputs. Operations that write in place get a copy of their input."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x_BLD, y_BLD = (draw(size.batch, size.tokens, size.dim, dtype=dtype) for _ in range(2))
    hidden = draw(size.batch, size.tokens, size.hidden, dtype=dtype)
    q_BLAE, k_BLAE = (tokens.unflatten(-1, (size.heads, size.width)) for tokens in (x_BLD, y_BLD))
    shift, scale, gate = draw(size.batch, 6, size.dim).unbind(1)[:3]
    modulated = LayerNorm(size.dim, _EPS, elementwise_affine=False)
    affine = LayerNorm(size.dim, _EPS, device=device, dtype=dtype)
    rms = RMSNorm(size.dim, _EPS).to(device, dtype)
    for parameter in (affine.weight, affine.bias, rms.weight):
        parameter.data = draw(size.dim, dtype=dtype)
    angles = draw(1, size.tokens, 1, size.width // 2)
    rotary_emb = RotaryEmbedding(angles.cos(), angles.sin())
    labels_BL = 24 * torch.rand(size.batch, size.tokens, generator=generator, device=device)
    masks_BS3 = torch.rand(size.batch, size.keys, 3, generator=generator, device=device).round()
    masks = SpeakerMasks(masks_BS3, masks_BS3.sum(1))
    past, pixels = (
        draw(1, size.channels, 2, size.tokens, 3, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
        for _ in range(2)
    )
    gamma = draw(size.channels, dtype=dtype)
    table: Operations = {
        "modulated norm": lambda: (modulated(x_BLD, (shift, scale)),),
        "affine norm": lambda: (affine(x_BLD),),
        "gated residual": lambda: (gated_residual(x_BLD, y_BLD.clone(), gate),),
        "gated residual, affine norm": lambda: affine.add_norm(x_BLD, y_BLD.clone(), gate),
        "residual, affine norm": lambda: affine.add_norm(x_BLD, y_BLD.clone()),
        "residual, modulated norm": lambda: modulated.add_norm(x_BLD, y_BLD.clone(), modulation=(shift, scale)),
        "RMS norm": lambda: (rms(x_BLD, size.heads),),
        "RMS norm, RoPE": lambda: (rms(x_BLD, size.heads, rotary_emb),),
        "label RoPE": lambda: (apply_label_rope(q_BLAE, labels_BL),),
        "GELU": lambda: (TanhGELU()(hidden.clone()),),
        "VAE norm, SiLU": lambda: (concat_norm_silu(past, pixels, gamma),),
        "class attention": lambda: (attention_to_classes(q_BLAE, k_BLAE, masks),),
    }
    if has_fp8(device):
        rows = hidden.flatten(0, 1)
        table["fp8 rows"] = lambda: quantize_activations(rows, torch.float8_e4m3fn)
    return table
