"""Roofline model of the transformer: FLOPs, bytes moved and minimum seconds, computed from the configuration alone.

An n x k by k x m product counts as 2 n k m FLOPs. The bytes of a stage are the compulsory memory traffic of a single
fused kernel; those of a whole forward are its weights only, since activations could stay on chip.

Letters: L tokens, S tokens of a latent frame, T latent frames, D model width, F width of the feed-forward network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from benchmarks.speed.peak_throughput import PeakThroughput
from wan.configs.schema import TransformerConfig
from wan.types import PATCH, TEMPORAL_STRIDE, VideoSize

NUM_CLASSES = 3
"""Person 1, person 2, background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """FLOPs of linear layers (which may run in fp8), FLOPs of attention, and bytes moved."""

    linear: float = 0.0
    attention: float = 0.0
    bytes: float = 0.0

    @property
    def flops(self) -> float:
        """FLOPs of linear layers and attention."""
        return self.linear + self.attention

    def __add__(self, other: "Work") -> "Work":
        return Work(
            linear=self.linear + other.linear,
            attention=self.attention + other.attention,
            bytes=self.bytes + other.bytes,
        )

    def __mul__(self, times: int) -> "Work":
        return Work(linear=self.linear * times, attention=self.attention * times, bytes=self.bytes * times)


def num_tokens(size: VideoSize) -> int:
    """L: tokens of a clip."""
    frames, rows, columns = size.grid
    return frames * rows * columns


def block_work(
    config: TransformerConfig, size: VideoSize, persons: int = 1, itemsize: int = 2, weight_bytes: int | None = None
) -> dict[str, Work]:
    """Work of one block by stage.

    `itemsize`: bytes of an activation element; `weight_bytes`: of a linear weight element (None: `itemsize`).
    """
    L, D, F = num_tokens(size), config.dim, config.ffn_dim
    S = size.grid[1] * size.grid[2]
    row, weight = L * D * itemsize, D * D * (itemsize if weight_bytes is None else weight_bytes)
    square = 2 * L * D * D
    context = config.text_len + config.image_tokens
    speech = config.context_tokens * persons
    work = {
        # norm1, three fused residual (gated or plain) + norm, final gated residual
        "norms": Work(bytes=17 * row),
        "qkv": Work(linear=3 * square, bytes=4 * row + 3 * weight),
        "rope": Work(bytes=4 * row),
        "self-attention": Work(attention=4 * L * L * D, bytes=4 * row),
        "output": Work(linear=square, bytes=2 * row + weight),
        "cross-attention": Work(
            linear=2 * square,
            attention=4 * L * context * D,
            bytes=8 * row + 2 * weight + 2 * context * D * itemsize,
        ),
        "audio": Work(
            linear=2 * square,
            attention=4 * L * speech * D,
            bytes=6 * row + 2 * weight + 2 * size.grid[0] * speech * D * itemsize,
        ),
        "ffn": Work(linear=4 * L * D * F, bytes=2 * row + 2 * L * F * itemsize + 2 * weight * F / D),
    }
    if persons > 1:
        scores = 2 * L * S * (D + NUM_CLASSES * config.num_heads)
        work["labels"] = Work(attention=scores, bytes=row + S * D * itemsize)
    return work


def forward_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> dict[str, Work]:
    """Work of a forward by stage: all blocks, `embed and head`, and `constants`, which are computed once per clip."""
    block = block_work(config, size, persons)
    embed_and_head = 2 * num_tokens(size) * config.dim * PATCH**2 * (config.in_dim + config.out_dim)
    return {
        **{stage: work * config.num_layers for stage, work in block.items()},
        "embed and head": Work(linear=embed_and_head),
        "constants": constants_work(config, size, persons),
    }


def constants_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> Work:
    """Embedding text, image and speech, and projecting them to keys and values in every block."""
    D, T = config.dim, size.grid[0]
    text = config.text_len * (config.text_dim * D + D * D)
    image = config.image_tokens * (config.image_dim**2 + config.image_dim * D)
    features = config.audio_layers * config.audio_dim
    first, later = config.audio_window, config.audio_window + TEMPORAL_STRIDE - 1
    hidden = config.intermediate_dim
    speech = (first + later * (T - 1)) * features * hidden
    speech += T * hidden * (hidden + config.context_tokens * config.output_dim)
    keys_values = 2 * D * D * (config.text_len + config.image_tokens)
    keys_values += 2 * D * config.output_dim * T * config.context_tokens * persons
    return Work(linear=2.0 * (text + image + persons * speech + config.num_layers * keys_values))


def step_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> Work:
    """Work of a forward in every step: everything except `constants`."""
    return total_work(work for stage, work in forward_work(config, size, persons).items() if stage != "constants")


def total_work(works: Iterable[Work]) -> Work:
    """Sum of several pieces of work."""
    return sum(works, Work())


def min_seconds(work: Work, peak: PeakThroughput, fp8: bool = False) -> float:
    """Roofline bound: the larger of compute time and memory time; `fp8` applies to linear layers."""
    linear_rate = (peak.matmul_fp8 or peak.matmul) if fp8 else peak.matmul
    return max(work.linear / linear_rate + work.attention / peak.matmul, work.bytes / peak.copy)


def min_forward_seconds(
    config: TransformerConfig,
    size: VideoSize,
    persons: int,
    peak: PeakThroughput,
    weight_bytes: float,
    fp8: bool = False,
) -> float:
    """Roofline bound of a forward with precomputed constants; `weight_bytes` is the size of all weights."""
    work = step_work(config, size, persons)
    return min_seconds(replace(work, bytes=weight_bytes), peak, fp8)


def summarize(work: Mapping[str, Work]) -> dict[str, float]:
    """FLOPs of the linear layers of all blocks, of self-attention, and in total."""
    blocks = (each.linear for stage, each in work.items() if stage not in ("embed and head", "constants"))
    return {
        "linear layers": sum(blocks),
        "self attention": work["self-attention"].attention,
        "total": total_work(work.values()).flops,
    }
