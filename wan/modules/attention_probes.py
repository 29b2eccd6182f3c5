"""Comparison of attention backends on random inputs of the shapes of the published network.

Shapes: B batch, L queries, S keys, A attention heads, E head width.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Backend = Callable[[Tensor, Tensor, Tensor], Tensor]

APPROXIMATE = {"sage": "sageattention"}
"""Packages with eight-bit quantized attention, used only if the environment variable names them."""
PROBES = {
    "self": ((1, 32928, 32928),),
    "many_keys": ((1, 32928, 1568),),
    "some_keys": ((1, 32928, 512), (1, 32928, 257)),
    "few_keys": ((21, 1568, 32), (21, 1568, 64)),
}
"""Batch size, queries and keys of each kind at 448 x 896: self-attention; attention to the first latent frame; to text
and to image; to the speech of one and of two persons. 32,928 is no multiple of 64: a backend's last tile is partial."""
_MAX_CPU_PROBE = 256
"""Maximum queries and keys of a probe on a CPU."""
_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-2}
_APPROXIMATE_TOLERANCE = 1e-1
_COMPARED_ROWS = 64
_ROUNDS = 3
_LONG_CALL = 2**28
"""Queries times keys from which two timed calls are enough; others take less than starting them does."""


class ShapeClass(NamedTuple):
    """Key of the backend choice. `kind` is a key of `PROBES`, `width` the head width E, `heads` their number."""

    device: torch.device
    dtype: torch.dtype
    kind: str
    width: int
    heads: int = 40


def probes(shape: ShapeClass) -> Iterator[list[Tensor]]:
    """Random queries, keys and values for each shape of a class, one after the other."""
    generator = torch.Generator(shape.device).manual_seed(0)
    for batch, queries, keys in PROBES[shape.kind]:
        limit = max(queries, keys) if shape.device.type == "cuda" else _MAX_CPU_PROBE
        yield [
            torch.randn(
                (batch, min(tokens, limit), shape.heads, shape.width),
                device=shape.device,
                dtype=shape.dtype,
                generator=generator,
            )
            for tokens in (queries, keys, keys)
        ]


def choose_backend(candidates: Mapping[str, Backend], qkvs: Iterable[list[Tensor]]) -> str:
    """Name of the candidate that agrees with the reference on every probe in the shortest time; `math` only if no
    other does.

    Raises RuntimeError if none agrees.
    """
    seconds = dict.fromkeys(candidates, 0.0)
    for qkv in qkvs:
        for name in list(seconds):
            if name == "math" and len(seconds) > 1:
                continue
            fault = find_fault(name, candidates[name], qkv)
            if fault is None:
                seconds[name] += measure_seconds(candidates[name], qkv)
            else:
                logger.info("attention: %s is not used: %s", name, fault)
                del seconds[name]
    if not seconds:
        raise RuntimeError(f"attention: none of the backends works here: {', '.join(candidates)}")
    return min(seconds, key=lambda name: (name == "math", seconds[name]))


def find_fault(name: str, candidate: Backend, qkv: list[Tensor]) -> str | None:
    """Why a candidate must not be used: it raises, returns NaN or Inf, or differs from the reference. None if it may.

    The relative L2 error is computed on up to 64 queries; its limit is 2e-2 in 16 bits, 1e-3 in float32, and 1e-1 for
    approximate backends. Raises torch.OutOfMemoryError, which a smaller offload plan avoids.
    """
    q, k, v = qkv
    limit = _APPROXIMATE_TOLERANCE if name in APPROXIMATE else _TOLERANCE.get(q.dtype, 1e-3)
    try:
        out = candidate(q, k, v)
    except torch.OutOfMemoryError:
        raise
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


def reference(q_BLAE: Tensor, k_BSAE: Tensor, v_BSAE: Tensor) -> Tensor:
    """The formula in float32, materializing the attention matrix of one head at a time."""
    heads = []
    for q_BLE, k_BSE, v_BSE in zip(*(x.unbind(2) for x in (q_BLAE, k_BSAE, v_BSAE)), strict=True):
        scores_BLS = q_BLE.float() @ k_BSE.float().mT / math.sqrt(q_BLE.shape[-1])
        heads.append(scores_BLS.softmax(-1) @ v_BSE.float())
    return torch.stack(heads, dim=2)


def measure_seconds(candidate: Backend, qkv: list[Tensor]) -> float:
    """Seconds of one call, the shortest mean of several rounds, after a warm-up call by the caller."""
    q, k, _ = qkv
    repeats = 2 if q.shape[1] * k.shape[1] >= _LONG_CALL else 20
    return min(_mean_seconds(lambda: candidate(*qkv), repeats, q.device) for _ in range(_ROUNDS))


def _mean_seconds(call: Callable[[], Tensor], repeats: int, device: torch.device) -> float:
    """On a GPU between two events: the clock of the host would measure how long Python takes to start the kernels."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        first.record()
        for _ in range(repeats):
            call()
        last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / repeats
