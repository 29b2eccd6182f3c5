"""The MultiTalk video transformer: Wan2.1-I2V with an attention to speech in every block.

Shapes: B batch, C latent channels, T latent frames, H x W latent rows and columns, L = T (H / 2) (W / 2) tokens,
D model width, A heads, E head width, N persons.
Constants of a clip (text, image and speech as keys and values of every block) are computed once by the `embed_*`
methods and passed in; a forward computes only what the noisy latent and the time step change.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wan.configs.schema import TransformerConfig
from wan.modules.attention import KeyValue, attention, split_heads
from wan.modules.audio import AudioCrossAttention, AudioProjection
from wan.modules.gelu import TanhGELU
from wan.modules.norms import LayerNorm, RMSNorm, gated_residual, plain_modulated_norm
from wan.modules.rope import RotaryEmbedding
from wan.modules.speaker_labels import SpeakerMasks, speaker_labels
from wan.types import PATCH

FLOAT32_NAMES = ("time_embedding.", "time_projection.", "head.", "modulation")
"""Beginnings or ends of the parameters that stay float32 whatever the network's dtype is."""

KVCache = tuple[KeyValue, ...]
"""Keys and values of one source (text, image or speech), one entry per block."""


class TimeEmbedding(NamedTuple):
    """Of a time step, float32: `e` B x D for the head, `e0` B x 6 x D for the blocks."""

    e: Tensor
    e0: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What one pass is conditioned on. `masks` is None unless two persons speak."""

    text: KVCache
    image: KVCache
    speech: KVCache
    masks: SpeakerMasks | None = None


class SelfAttended(NamedTuple):
    """Tokens after a block's self attention and their norm, B x L x D; labels, B x L, where two persons speak."""

    x: Tensor
    normed: Tensor
    labels: Tensor | None


class SelfAttention(nn.Module):
    """Attention among video tokens, with RMSNorm over the whole width of q and k, and 3-D RoPE."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def project(self, x_BLD: Tensor, rotation: RotaryEmbedding) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after norm and RoPE, and values, each B x L x A x E."""
        q = self.norm_q(self.q(x_BLD), self.num_heads, rotation)
        k = self.norm_k(self.k(x_BLD), self.num_heads, rotation)
        return q, k, split_heads(self.v(x_BLD), self.num_heads)

    def forward(self, q_BLAE: Tensor, k_BLAE: Tensor, v_BLAE: Tensor) -> Tensor:
        """What `project` gave to B x L x D."""
        return self.o(attention(q_BLAE, k_BLAE, v_BLAE).flatten(2))


class CrossAttention(nn.Module):
    """Attention to text and to image, one softmax each, their results added."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.k_img, self.v_img = (nn.Linear(dim, dim) for _ in range(2))
        self.norm_q, self.norm_k, self.norm_k_img = (RMSNorm(dim, eps) for _ in range(3))

    def text_keys_values(self, text_BSD: Tensor) -> KeyValue:
        """Keys and values of embedded text."""
        return KeyValue(self.norm_k(self.k(text_BSD), self.num_heads), split_heads(self.v(text_BSD), self.num_heads))

    def image_keys_values(self, image_BSD: Tensor) -> KeyValue:
        """Keys and values of embedded image tokens."""
        return KeyValue(
            self.norm_k_img(self.k_img(image_BSD), self.num_heads), split_heads(self.v_img(image_BSD), self.num_heads)
        )

    def forward(self, x_BLD: Tensor, text: KeyValue, image: KeyValue) -> Tensor:
        """B x L x D to the same shape."""
        q = self.norm_q(self.q(x_BLD), self.num_heads)
        return self.o((attention(q, *text) + attention(q, *image)).flatten(2))


class Block(nn.Module):
    """Self attention, text and image, speech, feed-forward; the first and the last modulated by the time step."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = SelfAttention(dim, config.num_heads, eps)
        self.norm3 = LayerNorm(dim, eps)
        self.cross_attn = CrossAttention(dim, config.num_heads, eps)
        self.norm_x = LayerNorm(dim, eps)
        self.audio_cross_attn = AudioCrossAttention(config)
        self.norm2 = LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), TanhGELU(), nn.Linear(config.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))

    def forward(
        self,
        x_BLD: Tensor,
        e0_B6D: Tensor,
        rotation: RotaryEmbedding,
        constants: tuple[KeyValue, KeyValue, KeyValue],
        masks: SpeakerMasks | None,
    ) -> Tensor:
        """`constants`: this block's keys and values of text, image and speech."""
        return self.condition(self.attend(x_BLD, e0_B6D, rotation, masks), e0_B6D, constants, masks)

    def attend(
        self, x_BLD: Tensor, e0_B6D: Tensor, rotation: RotaryEmbedding, masks: SpeakerMasks | None
    ) -> SelfAttended:
        """The first part, which knows neither text, image nor speech; `masks` is None where no labels are wanted."""
        shift, scale, gate = (self.modulation + e0_B6D)[:, :3].unbind(1)
        q, k, v = self.self_attn.project(self.norm1(x_BLD, (shift, scale)), rotation)
        labels = None if masks is None else speaker_labels(q, k, masks)
        return SelfAttended(*self.norm3.of_sum(x_BLD, self.self_attn(q, k, v), gate), labels)

    def condition(
        self,
        attended: SelfAttended,
        e0_B6D: Tensor,
        constants: tuple[KeyValue, KeyValue, KeyValue],
        masks: SpeakerMasks | None,
    ) -> Tensor:
        """The rest, on what `attend` gave; its labels count where `masks` tell the speakers apart."""
        x, normed, labels = attended
        del attended  # the room it takes
        text, image, speech = constants
        shift, scale, gate = (self.modulation + e0_B6D)[:, 3:].unbind(1)
        x, normed = self.norm_x.of_sum(x, self.cross_attn(normed, text, image))
        heard = self.audio_cross_attn(normed, speech, None if masks is None else labels)
        x, normed = self.norm2.of_sum(x, heard, modulation=(shift, scale))
        return gated_residual(x, self.ffn(normed), gate)


class ImageProjection(nn.Module):
    """CLIP tokens to model width."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, image_BSC: Tensor) -> Tensor:
        """B x image_tokens x image_dim to B x image_tokens x D."""
        return self.proj(image_BSC)


class Head(nn.Module):
    """From tokens to the velocity of their patches, in float32 throughout."""

    def __init__(self, dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, out_dim * PATCH * PATCH)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / math.sqrt(dim))

    def forward(self, x_BLD: Tensor, e_BD: Tensor) -> Tensor:
        """B x L x D to float32 B x L x (2 * 2 * out_dim), a token's patch channel-last."""
        shift, scale = (self.modulation + e_BD[:, None]).unbind(1)
        # In float32 this is one operation of PyTorch's; kernels would be compiled and tried in one more dtype for it.
        return self.head(plain_modulated_norm(x_BLD.float(), shift, scale, self.eps))


class MultiTalkTransformer(nn.Module):
    """Predicts the velocity of a noisy video latent; its state dict has the published names and shapes."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, (1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_emb = ImageProjection(config.image_dim, dim)
        self.audio_proj = AudioProjection(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.head = Head(dim, config.out_dim, config.eps)

    @property
    def _blocks(self) -> Iterable[Block]:
        """The blocks in order; each may be used only until the next one is asked for (see `StreamedBlocks`)."""
        return cast(Iterable[Block], self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the token stream."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.patch_embedding.weight.device

    def embed_time(self, t_B: Tensor) -> TimeEmbedding:
        """Sinusoidal embedding of time steps 0..1000, made in float64, through the time layers in float32."""
        half = self.config.freq_dim // 2
        frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=t_B.device) / half)
        angles = t_B.double()[:, None] * frequencies
        e = self.time_embedding(torch.cat((angles.cos(), angles.sin()), dim=-1).float())
        return TimeEmbedding(e, rearrange(self.time_projection(e), "b (six d) -> b six d", six=6))

    def embed_text(self, states_BSC: Tensor) -> KVCache:
        """UMT5 states of the real tokens, B x (up to text_len) x text_dim.

        Padded with zero rows, which the reference attends like the others; too many rows are a ValueError.
        """
        missing = self.config.text_len - states_BSC.shape[1]
        if missing < 0:
            raise ValueError(f"text of {states_BSC.shape[1]} tokens; at most {self.config.text_len} are allowed")
        text_BSD = self.text_embedding(F.pad(states_BSC.to(self.dtype), (0, 0, 0, missing)))
        return tuple(block.cross_attn.text_keys_values(text_BSD) for block in self._blocks)

    def embed_image(self, tokens_BSC: Tensor) -> KVCache:
        """CLIP hidden states, B x image_tokens x image_dim."""
        image_BSD = self.img_emb(tokens_BSC.to(self.dtype))
        return tuple(block.cross_attn.image_keys_values(image_BSD) for block in self._blocks)

    def embed_speech(self, windows_BNFWYC: Tensor) -> KVCache:
        """Windows of speech states, B x N x F x audio_window x audio_layers x audio_dim; N is 1 or 2.

        More persons are a ValueError: the published weights know two labels.
        """
        persons = windows_BNFWYC.shape[1]
        if persons not in (1, 2):
            raise ValueError(f"{persons} speaking persons; the published weights tell 1 or 2 apart")
        tokens = self.audio_proj(windows_BNFWYC.to(self.dtype))
        return tuple(block.audio_cross_attn.keys_values(tokens, persons) for block in self._blocks)

    def patchify(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """Noisy latent (16 channels) and mask + condition latent (4 + 16) to tokens, B x L x D."""
        both = torch.cat((latent_BCTHW, condition_BCTHW), dim=1).to(self.dtype)
        return rearrange(self.patch_embedding(both), "b d t h w -> b (t h w) d")

    def run_blocks(self, x_BLD: Tensor, time: TimeEmbedding, rotation: RotaryEmbedding, context: Context) -> Tensor:
        """The stack of blocks on tokens of any size, for one pass."""
        return self.run_passes(x_BLD, time, rotation, (context,))[0]

    def run_passes(
        self, x_BLD: Tensor, time: TimeEmbedding, rotation: RotaryEmbedding, contexts: Sequence[Context]
    ) -> list[Tensor]:
        """The stack of blocks on the same tokens under several contexts, one result each.

        Block by block, so that one which is streamed comes once. What the first one does before it reads its context is
        the same for all: done once, with labels if any of them wants those.
        """
        sources = [tuple(zip(each.text, each.image, each.speech, strict=True)) for each in contexts]
        masks = next((each.masks for each in contexts if each.masks is not None), None)
        results: list[Tensor] = []
        for number, block in enumerate(self._blocks):
            shared = block.attend(x_BLD, time.e0, rotation, masks) if number == 0 else None
            for context, source in zip(contexts, sources, strict=True):
                # Tokens are handed on, not kept: a block gives their room back as soon as it can.
                results.append(
                    block.condition(
                        shared or block.attend(results.pop(0), time.e0, rotation, context.masks),
                        time.e0,
                        source[number],
                        context.masks,
                    )
                )
        return results

    def unpatchify(self, x_BLD: Tensor, time: TimeEmbedding, grid: tuple[int, int, int]) -> Tensor:
        """Tokens of a T x rows x columns grid to the velocity, float32, B x 16 x T x H x W."""
        t, rows, columns = grid
        return rearrange(
            self.head(x_BLD, time.e),
            "b (t r c) (p q ch) -> b ch t (r p) (c q)",
            t=t,
            r=rows,
            c=columns,
            p=PATCH,
            q=PATCH,
        )

    def forward(
        self,
        latent_BCTHW: Tensor,
        condition_BCTHW: Tensor,
        time: TimeEmbedding,
        rotation: RotaryEmbedding,
        context: Context,
    ) -> Tensor:
        """Velocity of `latent_BCTHW`, same shape, float32."""
        t, h, w = latent_BCTHW.shape[2:]
        x_BLD = self.run_blocks(self.patchify(latent_BCTHW, condition_BCTHW), time, rotation, context)
        return self.unpatchify(x_BLD, time, (t, h // PATCH, w // PATCH))
