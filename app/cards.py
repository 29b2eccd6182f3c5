"""Estimated seconds on reference cards, from their data sheets. A model, not a measurement."""

from dataclasses import dataclass

from wan.checkpoint import Precision
from wan.configs.schema import TransformerConfig
from wan.offload.estimate import WeightBytes
from wan.offload.plan import OffloadPlan
from wan.types import VideoSize

MATMUL_SHARE, ATTENTION_SHARE, VAE_SHARE = 0.7, 0.6, 0.2
"""Shares of the data sheet's rate that linear layers, attention and the VAE reach."""
ROW_PASSES = 30
"""How often a block reads or writes its tokens outside of matrix products: norms, rotary embedding, GELU, residuals."""
VAE_FLOPS_PER_PIXEL = 8.5e6
"""FLOPs to decode one pixel of one frame; encoding takes 0.6 of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU: bytes of memory, compute capability; dense FLOP/s in bfloat16 and fp8; bytes/s of memory and host link."""

    name: str
    memory: int
    capability: tuple[int, int]
    bf16: float
    fp8: float
    bandwidth: float
    link: float


CARDS = (
    Card(name="RTX 4080", memory=16 * 10**9, capability=(8, 9), bf16=97e12, fp8=195e12, bandwidth=0.72e12, link=25e9),
    Card(name="RTX 4090", memory=24 * 10**9, capability=(8, 9), bf16=165e12, fp8=330e12, bandwidth=1.01e12, link=25e9),
    Card(name="L40S", memory=48 * 10**9, capability=(8, 9), bf16=362e12, fp8=733e12, bandwidth=0.86e12, link=25e9),
    Card(name="H100", memory=80 * 10**9, capability=(9, 0), bf16=989e12, fp8=1979e12, bandwidth=3.35e12, link=50e9),
)


def reference_card(memory: int) -> Card:
    """The largest of `CARDS` with at most so many bytes, or else the smallest."""
    return max((card for card in CARDS if card.memory <= memory), key=lambda card: card.memory, default=CARDS[0])


def forward_seconds(
    card: Card, config: TransformerConfig, size: VideoSize, precision: Precision, streamed_bytes: int = 0
) -> float:
    """One guidance pass of one denoising step; streamed blocks are uploaded meanwhile."""
    frames, rows, columns = size.grid
    tokens, dim = frames * rows * columns, config.dim
    linear = config.num_layers * 2 * tokens * dim * (8 * dim + 2 * config.ffn_dim)
    attention = config.num_layers * 4 * tokens**2 * dim
    rate = card.fp8 if precision == "fp8" else card.bf16
    compute = linear / (rate * MATMUL_SHARE) + attention / (card.bf16 * ATTENTION_SHARE)
    compute += config.num_layers * ROW_PASSES * tokens * dim * 2 / card.bandwidth
    return max(compute, streamed_bytes / card.link)


def chunk_seconds(
    card: Card,
    config: TransformerConfig,
    size: VideoSize,
    precision: Precision,
    plan: OffloadPlan,
    weights: WeightBytes,
    evaluations: int,
) -> float:
    """One chunk: conditioning, `evaluations` guidance passes in all steps together, decoding."""
    streamed = sum(weights.blocks[plan.num_resident_blocks :])
    vae = 1.6 * VAE_FLOPS_PER_PIXEL * size.frames * size.height * size.width / (card.bf16 * VAE_SHARE)
    uploads = 0 if plan.keep_encoders else (2 * weights.vae + weights.image_encoder) / card.link
    return vae + uploads + evaluations * forward_seconds(card, config, size, precision, streamed)
