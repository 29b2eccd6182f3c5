"""Scaled dot-product attention with the fastest correct backend for each class of shapes.

Shapes: B batch, L queries, S keys, A attention heads, E head width.
"""

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wan.modules.attention_probes import APPROXIMATE, PROBES, Backend, ShapeClass, choose_backend, find_fault, probes

logger = logging.getLogger(__name__)

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
NAMES = (DEFAULT, *SDPA, *FLASH_MODULES, *APPROXIMATE)


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each B x S x A x E."""

    k: Tensor
    v: Tensor


_chosen: dict[tuple[ShapeClass, str | None], Backend] = {}
_failed: set[tuple[ShapeClass, str]] = set()
"""Backends that raised at run time."""
_names: dict[ShapeClass, str] = {}


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """B x L x D to B x L x A x E."""
    return x_BLD.unflatten(-1, (num_heads, -1))


def attention(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, without a mask (Vaswani et al. 2017, eq. 1).

    Returns B x L x A x E in the dtype of `q_BLAE`. A backend that raises is replaced by the next fastest, with a
    warning. Raises RuntimeError that lists the usable backends if the one named by MULTITALK_ATTENTION is not usable.
    """
    if q_BLAE.is_meta:  # memory estimation: fused kernels allocate only their result
        return torch.empty_like(q_BLAE)
    choice = shape_class(q_BLAE, k_BSAE), forced_backend(os.environ)
    while True:
        if choice not in _chosen:
            _choose(*choice)
        try:
            return _chosen[choice](q_BLAE, k_BSAE, v_BSAE)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            _drop(*choice, error)


def choose_backends(device: torch.device, dtype: torch.dtype, width: int, heads: int) -> None:
    """Choose the backends of a GPU now: the probes need memory that is not free while a request runs."""
    forced = forced_backend(os.environ)
    for kind in PROBES if device.type == "cuda" else ():
        shape = ShapeClass(device, dtype, kind, width, heads)
        if (shape, forced) not in _chosen:
            _choose(shape, forced)


def shape_class(q_BLAE: Tensor, k_BSAE: Tensor) -> ShapeClass:
    """Class of the inputs, by the number of keys, which decides the relative speed of kernels."""
    queries, keys = q_BLAE.shape[1], k_BSAE.shape[1]
    kind = "few_keys" if keys <= 128 else "some_keys" if keys <= 640 else "many_keys"
    return ShapeClass(q_BLAE.device, q_BLAE.dtype, "self" if keys == queries else kind, *reversed(q_BLAE.shape[2:]))


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
        names = (name for name in (*FLASH_MODULES, *SDPA) if (shape, name) not in _failed)
        backends = installed(names)
        name = choose_backend(backends, probes(shape))
        logger.info("attention: %s for %s", name, _describe(shape))
    elif name != DEFAULT:
        backends = installed(NAMES)
        check_backend(name, backends, list(probes(shape)))
        logger.info("attention: %s for %s, set by %s", name, _describe(shape), ENV_VAR)
    else:
        backends = {DEFAULT: sdpa}
    _chosen[shape, forced] = backends[name]
    _names[shape] = name


def _drop(shape: ShapeClass, forced: str | None, error: Exception) -> None:
    """Exclude the backend of a class of shapes, which has raised an error; raise that where no other may be chosen."""
    name = _names[shape]
    if name in (forced, DEFAULT):
        raise error
    logger.warning("attention: %s is not used any more for %s: %s", name, _describe(shape), error)
    _failed.add((shape, name))
    del _chosen[shape, forced]


def _describe(shape: ShapeClass) -> str:
    return f"{shape.kind}, {shape.heads} heads of {shape.width}, {shape.dtype}, {shape.device}"


def sdpa(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention`."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLAE, k_BSAE, v_BSAE))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


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


def check_backend(name: str, candidates: Mapping[str, Backend], qkvs: Sequence[list[Tensor]]) -> None:
    """Raise RuntimeError unless the candidate of that name is installed and agrees with the reference."""
    fault: str | None = "its package is not installed"
    if name in candidates:
        fault = _first_fault(name, candidates[name], qkvs)
    if fault is not None:
        others = [each for each, candidate in candidates.items() if _first_fault(each, candidate, qkvs) is None]
        raise RuntimeError(f"{ENV_VAR} is {name}, which cannot be used here: {fault}; usable are {', '.join(others)}")


def _first_fault(name: str, candidate: Backend, qkvs: Sequence[list[Tensor]]) -> str | None:
    return next((fault for qkv in qkvs if (fault := find_fault(name, candidate, qkv))), None)
