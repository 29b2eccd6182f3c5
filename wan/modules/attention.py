"""Scaled dot-product attention with the fastest correct backend for each class of shapes.

Shapes: B batch, L queries, S keys, A attention heads, E head width.
"""

import functools
import importlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)

Backend = Callable[[Tensor, Tensor, Tensor], Tensor]

ENV_VAR = "MULTITALK_ATTENTION"
"""Environment variable: name of one backend to use for all shapes instead of the fastest."""
DEFAULT = "torch"
"""PyTorch's own choice among its kernels; the default on CPUs."""
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""PyTorch's kernels; `math` supports every device and shape but materializes the attention matrix."""
FLASH_MODULES = {
    "flash-attention-3": "flash_attn_interface",
    "flash-attention-4": "flash_attn.cute",
    "flash-attention-2": "flash_attn",
}
"""Modules that export `flash_attn_func`, by version of FlashAttention (Dao 2023)."""
APPROXIMATE = {"sage": "sageattention"}
"""Packages with eight-bit quantized attention, used only if the environment variable names them."""
NAMES = (DEFAULT, *SDPA, *FLASH_MODULES, *APPROXIMATE)

_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-2}
_APPROXIMATE_TOLERANCE = 1e-1
_COMPARED_ROWS = 64
_HEADS = 8
_PROBES = {
    "self": (1, 8192, 8192),
    "many_keys": (1, 8192, 1600),
    "some_keys": (1, 8192, 512),
    "few_keys": (21, 1600, 64),
}
"""Batch size, queries and keys of the probe of each kind. In the published network these are self-attention, attention
to the first latent frame, to text or image, and to the speech of each latent frame."""
_MAX_CPU_PROBE = 256
"""Maximum queries and keys of a probe on a CPU."""


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each B x S x A x E."""

    k: Tensor
    v: Tensor


class ShapeClass(NamedTuple):
    """Key of the backend choice. `kind` is a key of `_PROBES`, `width` the head width E."""

    device: torch.device
    dtype: torch.dtype
    kind: str
    width: int


_chosen: dict[tuple[ShapeClass, str | None], Backend] = {}
_names: dict[ShapeClass, str] = {}


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """B x L x D to B x L x A x E."""
    return x_BLD.unflatten(-1, (num_heads, -1))


def attention(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, without a mask (Vaswani et al. 2017, eq. 1).

    Returns B x L x A x E in the dtype of `q_BLAE`. Raises RuntimeError that lists the usable backends if the one named
    by MULTITALK_ATTENTION is not usable.
    """
    if q_BLAE.is_meta:  # memory estimation: fused kernels allocate only their result
        return torch.empty_like(q_BLAE)
    key = shape_class(q_BLAE, k_BSAE), forced_backend(os.environ)
    if key not in _chosen:
        _choose(*key)
    return _chosen[key](q_BLAE, k_BSAE, v_BSAE)


def shape_class(q_BLAE: Tensor, k_BSAE: Tensor) -> ShapeClass:
    """Class of the inputs, by the number of keys, which decides the relative speed of kernels."""
    queries, keys = q_BLAE.shape[1], k_BSAE.shape[1]
    kind = "few_keys" if keys <= 128 else "some_keys" if keys <= 640 else "many_keys"
    return ShapeClass(q_BLAE.device, q_BLAE.dtype, "self" if keys == queries else kind, q_BLAE.shape[-1])


def forced_backend(environ: Mapping[str, str]) -> str | None:
    """The backend named by the environment, None if there is none. Raises ValueError for an unknown name."""
    name = environ.get(ENV_VAR) or None
    if name not in (None, *NAMES):
        raise ValueError(f"{ENV_VAR} is {name!r}; allowed are {', '.join(NAMES)}")
    return name


def chosen_backends() -> dict[ShapeClass, str]:
    """Name of the backend of each class of shapes seen so far."""
    return dict(_names)


def _choose(shape: ShapeClass, forced: str | None) -> None:
    name = forced or (None if shape.device.type == "cuda" else DEFAULT)
    if name is None:
        backends = installed((*FLASH_MODULES, *SDPA))
        name = choose_backend(backends, probe(shape))
        logger.info("attention: %s for %s", name, _describe(shape))
    elif name != DEFAULT:
        backends = installed(NAMES)
        check_backend(name, backends, probe(shape))
        logger.info("attention: %s for %s, set by %s", name, _describe(shape), ENV_VAR)
    else:
        backends = {DEFAULT: sdpa}
    _chosen[shape, forced] = backends[name]
    _names[shape] = name


def _describe(shape: ShapeClass) -> str:
    return f"{shape.kind}, heads of {shape.width}, {shape.dtype}, {shape.device}"


def sdpa(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention`."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLAE, k_BSAE, v_BSAE))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def reference(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """The formula in float32, materializing the attention matrix."""
    scores_BALS = torch.einsum("blae,bsae->bals", q_BLAE.float(), k_BSAE.float()) / math.sqrt(q_BLAE.shape[-1])
    return torch.einsum("bals,bsae->blae", scores_BALS.softmax(-1), v_BSAE.float())


@functools.cache
def backend(name: str) -> Backend | None:
    """A backend by name, None if its package is not installed or fails to import."""
    if name == DEFAULT:
        return sdpa
    if name in SDPA:
        return _sdpa_with(SDPA[name])
    try:
        if name in APPROXIMATE:
            sage = importlib.import_module(APPROXIMATE[name]).sageattn
            return lambda q, k, v: sage(q, k, v, tensor_layout="NHD", is_causal=False)
        return _flash_attention(importlib.import_module(FLASH_MODULES[name]).flash_attn_func)
    except Exception as error:  # noqa: BLE001 - an optional package may raise anything on import
        logger.info("attention: %s is not usable: %s", name, error)
        return None


def _sdpa_with(kernel: SDPBackend) -> Backend:
    def run(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return sdpa(q_BLAE, k_BSAE, v_BSAE)

    return run


def _flash_attention(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Backend:
    def run(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
        out = function(q_BLAE, k_BSAE, v_BSAE)
        return out[0] if isinstance(out, tuple) else out

    return run


def installed(names: Iterable[str]) -> dict[str, Backend]:
    """The backends whose packages are installed."""
    return {name: candidate for name in names if (candidate := backend(name)) is not None}


def probe(shape: ShapeClass) -> list[Tensor]:
    """Random queries, keys and values for a class of shapes."""
    generator = torch.Generator(shape.device).manual_seed(0)
    batch, queries, keys = _PROBES[shape.kind]
    limit = max(queries, keys) if shape.device.type == "cuda" else _MAX_CPU_PROBE
    return [
        torch.randn(
            (batch, min(tokens, limit), _HEADS, shape.width),
            device=shape.device,
            dtype=shape.dtype,
            generator=generator,
        )
        for tokens in (queries, keys, keys)
    ]


def choose_backend(candidates: Mapping[str, Backend], qkv: list[Tensor]) -> str:
    """Name of the fastest candidate that agrees with the reference; `math` only if no other does.

    Raises RuntimeError if none agrees.
    """
    seconds: dict[str, float] = {}
    for name, candidate in candidates.items():
        if name == "math" and seconds:
            continue
        if (fault := find_fault(name, candidate, qkv)) is None:
            seconds[name] = _time(candidate, qkv)
        else:
            logger.info("attention: %s is not used: %s", name, fault)
    if not seconds:
        raise RuntimeError(f"attention: none of the backends works here: {', '.join(candidates)}")
    return min(seconds, key=lambda name: seconds[name])


def check_backend(name: str, candidates: Mapping[str, Backend], qkv: list[Tensor]) -> None:
    """Raise RuntimeError unless the candidate of that name is installed and agrees with the reference."""
    fault = find_fault(name, candidates[name], qkv) if name in candidates else "its package is not installed"
    if fault is not None:
        others = [other for other, candidate in candidates.items() if find_fault(other, candidate, qkv) is None]
        raise RuntimeError(f"{ENV_VAR} is {name}, which cannot be used here: {fault}; usable are {', '.join(others)}")


def find_fault(name: str, candidate: Backend, qkv: list[Tensor]) -> str | None:
    """Why a candidate must not be used: it raises, returns NaN or Inf, or differs from the reference. None if it may.

    The relative L2 error is computed on up to 64 queries; its limit is 2e-2 in 16 bits, 1e-3 in float32, and 1e-1 for
    approximate backends.
    """
    q, k, v = qkv
    limit = _APPROXIMATE_TOLERANCE if name in APPROXIMATE else _TOLERANCE.get(q.dtype, 1e-3)
    try:
        out = candidate(q, k, v)
    except Exception as failure:  # noqa: BLE001 - a backend may raise anything for unsupported inputs
        return str(failure).partition("\n")[0] or type(failure).__name__
    if (out.shape, out.dtype) != (q.shape, q.dtype):
        return "its result has another shape or dtype"
    if not out.isfinite().all():
        return "its result has NaN or Inf"
    rows = torch.linspace(0, q.shape[1] - 1, min(_COMPARED_ROWS, q.shape[1]), device=q.device).long()
    expected = reference(q[:, rows], k, v)
    error = ((out[:, rows].float() - expected).norm() / expected.norm()).item()
    return None if error < limit else f"it differs from the reference by {error:.1e}"


def _time(candidate: Backend, qkv: list[Tensor], rounds: int = 3, repeats: int = 5) -> float:
    """Seconds of `repeats` calls, minimum over rounds, after a warm-up call by the caller."""

    def synchronize() -> None:
        if qkv[0].is_cuda:
            torch.cuda.synchronize(qkv[0].device)

    best = math.inf
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            candidate(*qkv)
        synchronize()
        best = min(best, time.perf_counter() - start)
    return best
