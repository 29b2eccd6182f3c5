"""The least that a forward can take: its floating-point operations and bytes, from the configuration alone.

A product of n x k by k x m is 2 n k m operations. The bytes of a stage are what it must read and write at least when it
is one perfect kernel; those of a forward are its weights, since activations need not leave the chip.

Letters: L tokens, S tokens of a latent frame, T latent frames, D width, F width of the feed-forward.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from benchmarks.speed.peak_throughput import PeakThroughput
from wan.configs.schema import TransformerConfig
from wan.types import PATCH, TEMPORAL_STRIDE, VideoSize

CLASSES = 3
"""Person 1, person 2, background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations in linear layers, which may be in eight bits, operations in attention, and bytes moved."""

    linear: float = 0.0
    attention: float = 0.0
    bytes: float = 0.0

    @property
    def flops(self) -> float:
        """All operations."""
        return self.linear + self.attention

    def __add__(self, other: "Work") -> "Work":
        return Work(
            linear=self.linear + other.linear,
            attention=self.attention + other.attention,
            bytes=self.bytes + other.bytes,
        )

    def __mul__(self, times: int) -> "Work":
        return Work(linear=self.linear * times, attention=self.attention * times, bytes=self.bytes * times)


def tokens(size: VideoSize) -> int:
    """L of a clip."""
    frames, rows, columns = size.grid
    return frames * rows * columns


def block_work(
    config: TransformerConfig, size: VideoSize, persons: int = 1, itemsize: int = 2, weight_bytes: int | None = None
) -> dict[str, Work]:
    """One block by stages; `itemsize` is of activations and `weight_bytes`, the same if None, of linear weights."""
    L, D, F = tokens(size), config.dim, config.ffn_dim
    S = size.grid[1] * size.grid[2]
    row, weight = L * D * itemsize, D * D * (itemsize if weight_bytes is None else weight_bytes)
    square = 2 * L * D * D
    context = config.text_len + config.image_tokens
    speech = config.context_tokens * persons
    work = {
        # norm1; three times gate or sum with the next norm; the last gate
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
        scores = 2 * L * S * (D + CLASSES * config.num_heads)
        work["labels"] = Work(attention=scores, bytes=row + S * D * itemsize)
    return work


def forward_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> dict[str, Work]:
    """A forward: its blocks by stages, patches and head, and `constants`, which a clip needs once."""
    one = block_work(config, size, persons)
    ends = 2 * tokens(size) * config.dim * PATCH**2 * (config.in_dim + config.out_dim)
    return {
        **{stage: work * config.num_layers for stage, work in one.items()},
        "ends": Work(linear=ends),
        "constants": constants_work(config, size, persons),
    }


def constants_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> Work:
    """Text, image and speech as keys and values of all blocks."""
    D, T = config.dim, size.grid[0]
    text = config.text_len * (config.text_dim * D + D * D)
    image = config.image_tokens * (config.image_dim**2 + config.image_dim * D)
    place = config.audio_layers * config.audio_dim
    first, later = config.audio_window, config.audio_window + TEMPORAL_STRIDE - 1
    hidden = config.intermediate_dim
    speech = (first + later * (T - 1)) * place * hidden
    speech += T * hidden * (hidden + config.context_tokens * config.output_dim)
    keys_values = 2 * D * D * (config.text_len + config.image_tokens)
    keys_values += 2 * D * config.output_dim * T * config.context_tokens * persons
    return Work(linear=2.0 * (text + image + persons * speech + config.num_layers * keys_values))


def step_work(config: TransformerConfig, size: VideoSize, persons: int = 1) -> Work:
    """What a forward does in every step: all but the constants."""
    return total(work for stage, work in forward_work(config, size, persons).items() if stage != "constants")


def total(work: Iterable[Work]) -> Work:
    """The sum."""
    return sum(work, Work())


def seconds(work: Work, ceilings: PeakThroughput, eight_bits: bool = False) -> float:
    """The floor of some work: its products at the rate of a large product, or its bytes at that of a copy."""
    rate = (ceilings.product_fp8 or ceilings.product) if eight_bits else ceilings.product
    return max(work.linear / rate + work.attention / ceilings.product, work.bytes / ceilings.copy)


def forward_seconds(
    config: TransformerConfig,
    size: VideoSize,
    persons: int,
    ceilings: PeakThroughput,
    weight_bytes: float,
    eight_bits: bool = False,
) -> float:
    """The floor of a forward whose constants are there already; `weight_bytes` of the whole network."""
    work = step_work(config, size, persons)
    return seconds(replace(work, bytes=weight_bytes), ceilings, eight_bits)


def table(work: Mapping[str, Work]) -> dict[str, float]:
    """The parts that are spoken of: linear layers of the blocks, self-attention, all; in operations."""
    blocks = (each.linear for stage, each in work.items() if stage not in ("ends", "constants"))
    return {
        "linear layers": sum(blocks),
        "self attention": work["self-attention"].attention,
        "total": total(work.values()).flops,
    }
