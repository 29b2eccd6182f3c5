"""Scaled dot-product attention: one function, and for every class of shapes the fastest backend that computes it.

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

SETTING = "MULTITALK_ATTENTION"
"""Environment variable: the name of the backend to use everywhere, instead of the fastest."""
DEFAULT = "torch"
"""PyTorch's own choice among its kernels: what processors use."""
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""PyTorch's kernels; the last one serves every device and shape, but stores all the probabilities."""
FLASH_MODULES = {
    "flash-attention-3": "flash_attn_interface",
    "flash-attention-4": "flash_attn.cute",
    "flash-attention-2": "flash_attn",
}
"""Packages of FlashAttention (Dao 2023), where each keeps `flash_attn_func`."""
APPROXIMATE = {"sage": "sageattention"}
"""Packages that round to eight bits, used only where the setting names them."""
NAMES = (DEFAULT, *SDPA, *FLASH_MODULES, *APPROXIMATE)

_AGREEMENT = {torch.bfloat16: 2e-2, torch.float16: 2e-2}
_APPROXIMATE_AGREEMENT = 1e-1
_COMPARED_ROWS = 64
_HEADS = 8
_PROBES = {
    "self": (1, 8192, 8192),
    "many_keys": (1, 8192, 1600),
    "some_keys": (1, 8192, 512),
    "few_keys": (21, 1600, 64),
}
"""Batch, queries and keys on which backends are compared, by kind. In the published network: among all tokens, to the
first latent frame, to text or image, and to the speech of each latent frame."""
_SMALL_PROBE = 256
"""Most queries and keys of a probe on a processor."""


class KeyValue(NamedTuple):
    """Keys and values of one attention, each B x S x A x E."""

    k: Tensor
    v: Tensor


class ShapeClass(NamedTuple):
    """Attentions that one backend is chosen for. `kind` is one of `_PROBES`, `width` that of a head."""

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

    Returns B x L x A x E in the dtype of `q_BLAE`. Raises RuntimeError, with the names of those that can be used, where
    the backend that the setting names cannot.
    """
    if q_BLAE.is_meta:  # counts memory, for which every fused kernel allocates no more than its result
        return torch.empty_like(q_BLAE)
    key = shape_class(q_BLAE, k_BSAE), forced_backend(os.environ)
    if key not in _chosen:
        _choose(*key)
    return _chosen[key](q_BLAE, k_BSAE, v_BSAE)


def shape_class(q_BLAE: Tensor, k_BSAE: Tensor) -> ShapeClass:
    """By the number of keys, which is what kernels differ in."""
    queries, keys = q_BLAE.shape[1], k_BSAE.shape[1]
    kind = "few_keys" if keys <= 128 else "some_keys" if keys <= 640 else "many_keys"
    return ShapeClass(q_BLAE.device, q_BLAE.dtype, "self" if keys == queries else kind, q_BLAE.shape[-1])


def forced_backend(environ: Mapping[str, str]) -> str | None:
    """The backend that the operator forces, if any; ValueError for a name that is none."""
    name = environ.get(SETTING) or None
    if name not in (None, *NAMES):
        raise ValueError(f"{SETTING} is {name!r}; allowed are {', '.join(NAMES)}")
    return name


def chosen_backends() -> dict[ShapeClass, str]:
    """The backend in use for every class of shapes that was met so far."""
    return dict(_names)


def _choose(shape: ShapeClass, forced: str | None) -> None:
    name = forced or (None if shape.device.type == "cuda" else DEFAULT)
    if name is None:
        found = installed((*FLASH_MODULES, *SDPA))
        name = choose_backend(found, probe(shape))
        logger.info("attention: %s for %s", name, _described(shape))
    elif name != DEFAULT:
        found = installed(NAMES)
        check_backend(name, found, probe(shape))
        logger.info("attention: %s for %s, as %s says", name, _described(shape), SETTING)
    else:
        found = {DEFAULT: sdpa}
    _chosen[shape, forced] = found[name]
    _names[shape] = name


def _described(shape: ShapeClass) -> str:
    return f"{shape.kind}, heads of {shape.width}, {shape.dtype}, {shape.device}"


def sdpa(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """PyTorch's own attention."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLAE, k_BSAE, v_BSAE))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def reference(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """The formula in float32."""
    scores_BALS = torch.einsum("blae,bsae->bals", q_BLAE.float(), k_BSAE.float()) / math.sqrt(q_BLAE.shape[-1])
    return torch.einsum("bals,bsae->blae", scores_BALS.softmax(-1), v_BSAE.float())


@functools.cache
def backend(name: str) -> Backend | None:
    """A backend by its name, or None when its package is not installed."""
    if name == DEFAULT:
        return sdpa
    if name in SDPA:
        return _sdpa_with(SDPA[name])
    try:
        if name in APPROXIMATE:
            sage = importlib.import_module(APPROXIMATE[name]).sageattn
            return lambda q, k, v: sage(q, k, v, tensor_layout="NHD", is_causal=False)
        return _flash_attention(importlib.import_module(FLASH_MODULES[name]).flash_attn_func)
    except Exception as error:  # noqa: BLE001 - a broken option is an absent one, whatever it raises on import
        logger.info("attention: %s is not usable here: %s", name, error)
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
    """Those backends whose packages are here."""
    return {name: found for name in names if (found := backend(name)) is not None}


def probe(shape: ShapeClass) -> list[Tensor]:
    """Random queries, keys and values of a class of shapes."""
    generator = torch.Generator(shape.device).manual_seed(0)
    batch, queries, keys = _PROBES[shape.kind]
    most = max(queries, keys) if shape.device.type == "cuda" else _SMALL_PROBE
    return [
        torch.randn(
            (batch, min(tokens, most), _HEADS, shape.width),
            device=shape.device,
            dtype=shape.dtype,
            generator=generator,
        )
        for tokens in (queries, keys, keys)
    ]


def choose_backend(candidates: Mapping[str, Backend], qkv: list[Tensor]) -> str:
    """Name of the candidate that is fastest on the probe, of those that agree with the reference.

    `math`, the last one, is used where no other is.
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
        raise RuntimeError(f"attention: no backend computes it here, of {', '.join(candidates)}")
    return min(seconds, key=lambda name: seconds[name])


def check_backend(name: str, candidates: Mapping[str, Backend], qkv: list[Tensor]) -> None:
    """RuntimeError unless the candidate of that name is there and agrees with the reference."""
    fault = find_fault(name, candidates[name], qkv) if name in candidates else "its package is not installed"
    if fault is not None:
        others = [other for other, candidate in candidates.items() if find_fault(other, candidate, qkv) is None]
        raise RuntimeError(f"{SETTING} is {name}, which cannot be used here: {fault}; usable are {', '.join(others)}")


def find_fault(name: str, candidate: Backend, qkv: list[Tensor]) -> str | None:
    """Why a candidate must not be used: it raises, gives values that are no numbers, or differs from the reference.

    Compared are some of the queries; that all results are finite is checked of all. The limit of the relative error is
    2e-2 in 16 bits, 1e-3 in others, and 1e-1 for backends that approximate.
    """
    q, k, v = qkv
    limit = _APPROXIMATE_AGREEMENT if name in APPROXIMATE else _AGREEMENT.get(q.dtype, 1e-3)
    try:
        out = candidate(q, k, v)
    except Exception as failure:  # noqa: BLE001 - an option must never stop us, and raises what it likes
        return str(failure).partition("\n")[0] or type(failure).__name__
    if (out.shape, out.dtype) != (q.shape, q.dtype):
        return "its result has another shape or dtype"
    if not out.isfinite().all():
        return "it gives values that are no numbers"
    rows = torch.linspace(0, q.shape[1] - 1, min(_COMPARED_ROWS, q.shape[1]), device=q.device).long()
    expected = reference(q[:, rows], k, v)
    error = ((out[:, rows].float() - expected).norm() / expected.norm()).item()
    return None if error < limit else f"it differs from the reference by {error:.1e}"


def _time(candidate: Backend, qkv: list[Tensor], rounds: int = 3, repeats: int = 5) -> float:
    """Seconds of some calls, the best of a few rounds; the candidate has been called before."""

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
