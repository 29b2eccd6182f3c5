"""Stages `transfers`, `kernels` and `attention` of the quick run: host link, Triton kernels, attention backends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.speed.roofline import num_tokens
from benchmarks.speed.timing import measure
from wan.modules.attention import DEFAULT, FLASH_MODULES, SDPA, installed
from wan.modules.attention_probes import find_fault
from wan.modules.verify_kernels import DEFAULT as DEFAULT_SIZE
from wan.modules.verify_kernels import kernel_errors
from wan.types import VideoSize

Rows = dict[str, Any]
TRANSFER_BYTES = 2**28
SPEECH_TOKENS = 32
"""Keys of one person's speech for each latent frame."""


def measure_transfers(bench: Bench) -> Rows:
    """Bytes per second between host and device, from pinned and from pageable memory."""
    device = torch.empty(TRANSFER_BYTES, dtype=torch.uint8, device=bench.device)
    rows: Rows = {}
    for name, pinned in (("pinned", True), ("pageable", False)):
        host = torch.empty(TRANSFER_BYTES, dtype=torch.uint8, pin_memory=pinned and bench.device.type == "cuda")
        calls: dict[str, Callable[[], Any]] = {
            "up": lambda host=host: device.copy_(host, non_blocking=True),  # type: ignore[misc]
            "down": lambda host=host: host.copy_(device, non_blocking=True),  # type: ignore[misc]
        }
        for direction, call in calls.items():
            rows[f"{name} {direction}"] = TRANSFER_BYTES / measure(call, bench.device, bench.repeats).min_s
    return rows


def measure_kernels(bench: Bench) -> Rows:
    """Relative errors of the kernels in every dtype, and in the model's at the token counts of the main sizes."""
    rows: Rows = {}
    if bench.device.type != "cuda":
        return rows
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rows[str(dtype)] = kernel_errors(bench.device, dtype)
    for size in bench.main_sizes:
        tokens = num_tokens(size)
        rows[f"{tokens} tokens"] = kernel_errors(bench.device, torch.bfloat16, replace(DEFAULT_SIZE, tokens=tokens))
        torch.cuda.empty_cache()
    return rows


def measure_attention(bench: Bench) -> Rows:
    """Error and seconds of every backend at the shapes of the first main size."""
    config, dtype = bench.config.transformer, getattr(torch, bench.config.dtype)
    names = (*FLASH_MODULES, *SDPA) if bench.device.type == "cuda" else (DEFAULT,)
    rows: Rows = {}
    for shape, (batch, queries, keys) in attention_shapes(bench, bench.main_sizes[0]).items():
        q, k, v = (
            torch.randn(batch, tokens, config.num_heads, config.head_dim, device=bench.device, dtype=dtype)
            for tokens in (queries, keys, keys)
        )
        for name, backend in installed(names).items():
            if name == "math" and queries == keys:
                continue  # the attention matrix would not fit
            row: Rows = {"fault": find_fault(name, backend, [q, k, v])}
            if row["fault"] is None:
                row |= vars_of(measure(lambda run=backend: run(q, k, v), bench.device, bench.repeats))  # type: ignore[misc] # noqa: B023
                row["flops"] = 4 * batch * queries * keys * config.dim
            rows.setdefault(f"{shape}: {batch} x {queries} x {keys}", {})[name] = row
    return rows


def vars_of(stats: Any) -> Rows:
    """Median and minimum of a measurement."""
    return {"median_s": stats.median_s, "min_s": stats.min_s}


def attention_shapes(bench: Bench, size: VideoSize) -> dict[str, tuple[int, int, int]]:
    """Batch, queries and keys of every attention of a forward."""
    config = bench.config.transformer
    tokens, frames = num_tokens(size), size.grid[0]
    return {
        "self": (1, tokens, tokens),
        "text": (1, tokens, config.text_len),
        "image": (1, tokens, config.image_tokens),
        "speech, 1 person": (frames, tokens // frames, config.context_tokens),
        "speech, 2 persons": (frames, tokens // frames, 2 * config.context_tokens),
    }
