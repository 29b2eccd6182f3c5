"""Scaled dot-product attention: one function, and the fastest backend that agrees with PyTorch's own.

Shapes: B batch, L queries, S keys, A attention heads, E head width.
"""

import functools
import importlib
import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)

Backend = Callable[[Tensor, Tensor, Tensor], Tensor]

# cuDNN's kernel is the fastest on Hopper; the others follow for devices and shapes that it does not serve.
_SDPA_PRIORITY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_AGREEMENT = 2e-2
_PROBE_SHAPES = (
    ((1, 4096, 8, 128), (1, 4096, 8, 128)),  # self attention, the one that is timed
    ((1, 4096, 8, 128), (1, 512, 8, 128)),  # to text, to image tokens, to the first latent frame
    ((21, 196, 8, 128), (21, 32, 8, 128)),  # to the speech of each latent frame
)
FLASH_MODULES = ("flash_attn_interface", "flash_attn.cute", "flash_attn")
"""Packages of FlashAttention 3, 4 and 2, where each keeps `flash_attn_func`."""


class KeyValue(NamedTuple):
    """Keys and values of one attention, each B x S x A x E."""

    k: Tensor
    v: Tensor


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """B x L x D to B x L x A x E."""
    return x_BLD.unflatten(-1, (num_heads, -1))


def attention(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, without a mask (Vaswani et al. 2017, eq. 1).

    Returns B x L x A x E in the dtype of `q_BLAE`.
    """
    if q_BLAE.is_meta:  # counts memory, for which every fused kernel allocates no more than its result
        return torch.empty_like(q_BLAE)
    half = q_BLAE.dtype in (torch.bfloat16, torch.float16)
    if q_BLAE.device.type == "cuda" and half:
        return _fastest_backend(q_BLAE.device, q_BLAE.dtype)(q_BLAE, k_BSAE, v_BSAE)
    return sdpa(q_BLAE, k_BSAE, v_BSAE)


def sdpa(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """The reference backend: PyTorch's own attention."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLAE, k_BSAE, v_BSAE))
    if q.device.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    with sdpa_kernel(_SDPA_PRIORITY, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def flash_attention(module: str) -> Backend | None:
    """The FlashAttention (Dao 2023) function of an optional package, or None when it is not installed."""
    try:
        function = importlib.import_module(module).flash_attn_func
    except Exception as error:  # noqa: BLE001 - a broken option is an absent one, whatever it raises on import
        logger.info("attention: %s is not usable here: %s", module, error)
        return None

    def backend(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
        out = function(q_BLAE, k_BSAE, v_BSAE)
        return out[0] if isinstance(out, tuple) else out

    return backend


@functools.cache
def _fastest_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """Time every backend once on this device; a backend that disagrees with the reference is not used."""
    candidates = {"torch": sdpa} | {
        name: backend for name in FLASH_MODULES if (backend := flash_attention(name)) is not None
    }
    if len(candidates) == 1:
        return sdpa
    name = choose_backend(candidates, probe_inputs(device, dtype))
    logger.info("attention: %s on %s", name, torch.cuda.get_device_name(device))
    return candidates[name]


def probe_inputs(device: torch.device, dtype: torch.dtype) -> list[list[Tensor]]:
    """Queries, keys and values in the shapes that the network uses."""
    generator = torch.Generator(device).manual_seed(0)
    return [
        [torch.randn(shape, device=device, dtype=dtype, generator=generator) for shape in (queries, keys, keys)]
        for queries, keys in _PROBE_SHAPES
    ]


def choose_backend(candidates: dict[str, Backend], probes: list[list[Tensor]]) -> str:
    """Name of the candidate that is fastest on the first probe, of those that agree with `sdpa` on all of them: finite,
    relative error below 2e-2."""
    seconds = {}
    for name, backend in candidates.items():
        try:
            error = max(_error(backend, qkv) for qkv in probes)
        except Exception as failure:  # noqa: BLE001 - an option must never stop us, and raises what it likes
            logger.warning("attention: %s failed its probe and is not used: %s", name, failure)
            continue
        if error < _AGREEMENT:
            seconds[name] = _time(backend, probes[0])
        else:
            logger.warning("attention: %s disagrees with the reference by %.1e and is not used", name, error)
    return min(seconds, key=lambda name: seconds[name])


def _error(backend: Backend, qkv: list[Tensor]) -> float:
    reference = sdpa(*qkv).float()
    error = ((backend(*qkv).float() - reference).norm() / reference.norm()).item()
    return error if math.isfinite(error) else math.inf


def _time(backend: Backend, qkv: list[Tensor], repeats: int = 5) -> float:
    def synchronize() -> None:
        if qkv[0].is_cuda:
            torch.cuda.synchronize(qkv[0].device)

    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        backend(*qkv)
    synchronize()
    return time.perf_counter() - start
