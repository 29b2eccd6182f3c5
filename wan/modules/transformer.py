"""The MultiTalk video transformer: Wan2.1-I2V with audio cross-attention in every block.

Shapes: B batch, C latent channels, T latent frames, H x W latent rows and columns, L = T (H / 2) (W / 2) tokens,
S context tokens, D model width, A heads, E head width, N persons.

The keys and values of text, image and speech, which are constant while a chunk is denoised, are computed once by the
`embed_*` methods and passed to the forward.
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
from wan.modules.norms import LayerNorm, RMSNorm, eager_modulated_norm, gated_residual
from wan.modules.quantized import apply_linears
from wan.modules.rope import RotaryEmbedding
from wan.modules.sequence_parallel import SINGLE_DEVICE, SequenceParallel
from wan.modules.speaker_labels import SpeakerMasks, speaker_labels
from wan.types import PATCH

FLOAT32_NAMES = ("time_embedding.", "time_projection.", "head.", "modulation")
"""Prefixes and suffixes of the names of parameters that stay float32 whatever the network's dtype is."""

KVCache = tuple[KeyValue, ...]
"""Cross-attention keys and values of text, image or speech, one entry per block."""


class TimeEmbedding(NamedTuple):
    """Embedding of a time step, float32: `temb` B x D modulates the head, `timestep_proj` B x 6 x D the blocks."""

    temb: Tensor
    timestep_proj: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Conditioning of one guidance pass. `masks` is None unless two persons speak."""

    text: KVCache
    image: KVCache
    speech: KVCache
    masks: SpeakerMasks | None = None


class SelfAttended(NamedTuple):
    """Tokens after self-attention and their norm, B x L x D; speaker labels, B x L, None for one person."""

    x: Tensor
    normed: Tensor
    labels: Tensor | None


class SelfAttention(nn.Module):
    """Self-attention of video tokens with RMSNorm over the full width of q and k, and 3-D RoPE."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def project(self, x_BLD: Tensor, rotary_emb: RotaryEmbedding) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after norm and RoPE, and values, each B x L x A x E."""
        outputs = apply_linears(x_BLD, (self.q, self.k, self.v))  # each is computed when it is needed
        q = self.norm_q(next(outputs), self.num_heads, rotary_emb)
        k = self.norm_k(next(outputs), self.num_heads, rotary_emb)
        return q, k, split_heads(next(outputs), self.num_heads)

    def forward(self, q_BLAE: Tensor, k_BLAE: Tensor, v_BLAE: Tensor, parallel: SequenceParallel) -> Tensor:
        """The projections of `project`, after `parallel.to_heads`, to B x L x D."""
        return self.o(parallel.to_tokens(attention(q_BLAE, k_BLAE, v_BLAE)).flatten(2))


class CrossAttention(nn.Module):
    """Attention to text and to image tokens, one softmax each, outputs added."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.k_img, self.v_img = (nn.Linear(dim, dim) for _ in range(2))
        self.norm_q, self.norm_k, self.norm_k_img = (RMSNorm(dim, eps) for _ in range(3))

    def text_keys_values(self, text_BSD: Tensor) -> KeyValue:
        """Keys and values of embedded text, each B x S x A x E."""
        return KeyValue(self.norm_k(self.k(text_BSD), self.num_heads), split_heads(self.v(text_BSD), self.num_heads))

    def image_keys_values(self, image_BSD: Tensor) -> KeyValue:
        """Keys and values of embedded image tokens, each B x S x A x E."""
        return KeyValue(
            self.norm_k_img(self.k_img(image_BSD), self.num_heads), split_heads(self.v_img(image_BSD), self.num_heads)
        )

    def forward(self, x_BLD: Tensor, text: KeyValue, image: KeyValue) -> Tensor:
        """B x L x D to the same shape."""
        q = self.norm_q(self.q(x_BLD), self.num_heads)
        return self.o((attention(q, *text) + attention(q, *image)).flatten(2))


class Block(nn.Module):
    """Self-attention, text and image, speech, feed-forward. The time step modulates the first and the last."""

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
        timestep_proj_B6D: Tensor,
        rotary_emb: RotaryEmbedding,
        context_kv: tuple[KeyValue, KeyValue, KeyValue],
        masks: SpeakerMasks | None,
    ) -> Tensor:
        """B x L x D to the same shape. `context_kv`: this block's keys and values of text, image and speech."""
        # One expression: a local variable would keep the intermediate tokens alive.
        return self.cross_attend(
            self.self_attend(x_BLD, timestep_proj_B6D, rotary_emb, masks), timestep_proj_B6D, context_kv, masks
        )

    def self_attend(
        self,
        x_BLD: Tensor,
        timestep_proj_B6D: Tensor,
        rotary_emb: RotaryEmbedding,
        masks: SpeakerMasks | None,
        parallel: SequenceParallel = SINGLE_DEVICE,
    ) -> SelfAttended:
        """Self-attention, which is independent of text, image and speech; labels only if `masks` is given."""
        shift, scale, gate = (self.modulation + timestep_proj_B6D)[:, :3].unbind(1)
        q, k, v = parallel.to_heads(*self.self_attn.project(self.norm1(x_BLD, (shift, scale)), rotary_emb))
        labels = None if masks is None else parallel.shard(speaker_labels(q, k, masks, parallel))
        return SelfAttended(*self.norm3.add_norm(x_BLD, self.self_attn(q, k, v, parallel), gate), labels)

    def cross_attend(
        self,
        attended: SelfAttended,
        timestep_proj_B6D: Tensor,
        context_kv: tuple[KeyValue, KeyValue, KeyValue],
        masks: SpeakerMasks | None,
    ) -> Tensor:
        """Cross-attention and feed-forward. `masks` None: the labels are ignored."""
        x, normed, labels = attended
        del attended  # frees the tensors once they are overwritten below
        text, image, speech = context_kv
        shift, scale, gate = (self.modulation + timestep_proj_B6D)[:, 3:].unbind(1)
        x, normed = self.norm_x.add_norm(x, self.cross_attn(normed, text, image))
        spoken = self.audio_cross_attn(normed, speech, None if masks is None else labels)
        x, normed = self.norm2.add_norm(x, spoken, modulation=(shift, scale))
        return gated_residual(x, self.ffn(normed), gate)


class ImageProjection(nn.Module):
    """MLP from CLIP hidden states to the model width."""

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
    """Projection of tokens to the velocity of their patches, in float32 throughout."""

    def __init__(self, dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, out_dim * PATCH * PATCH)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / math.sqrt(dim))

    def forward(self, x_BLD: Tensor, temb_BD: Tensor) -> Tensor:
        """B x L x D to float32 B x L x (2 * 2 * out_dim), the pixels of a patch channel-last."""
        shift, scale = (self.modulation + temb_BD[:, None]).unbind(1)
        # Always eager: one PyTorch operation in float32, while kernels are verified for the model's dtype only.
        return self.head(eager_modulated_norm(x_BLD.float(), shift, scale, self.eps))


class MultiTalkTransformer(nn.Module):
    """Predicts the velocity of a noisy video latent. The state dict has the names and shapes of the published one."""

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
        """The blocks in order; each one is valid only until the next one is requested (see `StreamedBlocks`)."""
        return cast(Iterable[Block], self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the token stream."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters outside the blocks."""
        return self.patch_embedding.weight.device

    def embed_time(self, t_B: Tensor) -> TimeEmbedding:
        """Sinusoidal embedding of time steps 0..1000 in float64, then the time MLPs in float32."""
        half = self.config.freq_dim // 2
        frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=t_B.device) / half)
        angles = t_B.double()[:, None] * frequencies
        temb = self.time_embedding(torch.cat((angles.cos(), angles.sin()), dim=-1).float())
        return TimeEmbedding(temb, rearrange(self.time_projection(temb), "b (six d) -> b six d", six=6))

    def embed_text(self, states_BSC: Tensor) -> KVCache:
        """Keys and values of UMT5 states, B x S x text_dim with S <= text_len, without padding tokens.

        Pads with zero rows, which are attended to as in the reference. Raises ValueError for more than text_len rows.
        """
        missing = self.config.text_len - states_BSC.shape[1]
        if missing < 0:
            raise ValueError(f"text of {states_BSC.shape[1]} tokens; at most {self.config.text_len} are allowed")
        text_BSD = self.text_embedding(F.pad(states_BSC.to(self.dtype), (0, 0, 0, missing)))
        return tuple(block.cross_attn.text_keys_values(text_BSD) for block in self._blocks)

    def embed_image(self, tokens_BSC: Tensor) -> KVCache:
        """Keys and values of CLIP hidden states, B x image_tokens x image_dim."""
        image_BSD = self.img_emb(tokens_BSC.to(self.dtype))
        return tuple(block.cross_attn.image_keys_values(image_BSD) for block in self._blocks)

    def embed_speech(self, windows_BNFWYC: Tensor) -> KVCache:
        """Keys and values of speech windows, B x N x F x audio_window x audio_layers x audio_dim.

        Raises ValueError unless N is 1 or 2: the published weights have labels for two speakers.
        """
        num_persons = windows_BNFWYC.shape[1]
        if num_persons not in (1, 2):
            raise ValueError(f"{num_persons} speaking persons; the published weights support 1 or 2")
        tokens = self.audio_proj(windows_BNFWYC.to(self.dtype))
        return tuple(block.audio_cross_attn.keys_values(tokens, num_persons) for block in self._blocks)

    def patchify(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """Noisy latent (16 channels) and condition (mask + latent, 4 + 16 channels) to tokens, B x L x D."""
        both = torch.cat((latent_BCTHW, condition_BCTHW), dim=1).to(self.dtype)
        return rearrange(self.patch_embedding(both), "b d t h w -> b (t h w) d")

    def forward_blocks(
        self, x_BLD: Tensor, time: TimeEmbedding, rotary_emb: RotaryEmbedding, context: Context
    ) -> Tensor:
        """All blocks on a grid of any size for one pass, B x L x D to the same shape."""
        return self.forward_passes(x_BLD, time, rotary_emb, (context,))[0]

    def forward_passes(
        self,
        x_BLD: Tensor,
        time: TimeEmbedding,
        rotary_emb: RotaryEmbedding,
        contexts: Sequence[Context],
        parallel: SequenceParallel = SINGLE_DEVICE,
    ) -> list[Tensor]:
        """All blocks on the same tokens for several guidance passes; one result per context.

        `x_BLD` and `rotary_emb` are this rank's shard of the grid. Each block runs all passes before the next one, so a
        streamed block is copied to the device once per step. The self-attention of the first block has the same input
        in every pass and is computed once.
        """
        caches = [tuple(zip(context.text, context.image, context.speech, strict=True)) for context in contexts]
        masks = next((context.masks for context in contexts if context.masks is not None), None)
        results: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            shared = block.self_attend(x_BLD, time.timestep_proj, rotary_emb, masks, parallel) if index == 0 else None
            for context, cache in zip(contexts, caches, strict=True):
                # No reference to the popped tokens is kept here, so the block can free them early.
                results.append(
                    block.cross_attend(
                        shared
                        or block.self_attend(results.pop(0), time.timestep_proj, rotary_emb, context.masks, parallel),
                        time.timestep_proj,
                        cache[index],
                        context.masks,
                    )
                )
        return results

    def unpatchify(
        self,
        x_BLD: Tensor,
        time: TimeEmbedding,
        grid: tuple[int, int, int],
        parallel: SequenceParallel = SINGLE_DEVICE,
    ) -> Tensor:
        """This rank's tokens of a T x rows x columns grid to the whole velocity, float32 B x 16 x T x H x W."""
        t, rows, columns = grid
        return rearrange(
            parallel.gather(self.head(x_BLD, time.temb)),
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
        rotary_emb: RotaryEmbedding,
        context: Context,
    ) -> Tensor:
        """Velocity of `latent_BCTHW`, same shape, float32."""
        t, h, w = latent_BCTHW.shape[2:]
        x_BLD = self.forward_blocks(self.patchify(latent_BCTHW, condition_BCTHW), time, rotary_emb, context)
        return self.unpatchify(x_BLD, time, (t, h // PATCH, w // PATCH))
