"""Audio conditioning: windows of wav2vec2 states to context tokens, and cross-attention to them.

Shapes: B batch, N persons, F video frames, W window positions, Y wav2vec2 layers, C hidden size, T latent frames,
K context tokens a person, L = T S video tokens, D model width, A heads, E head width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wan.configs.schema import TransformerConfig
from wan.modules.attention import KeyValue, attention, split_heads
from wan.modules.rope import apply_label_rope
from wan.modules.speaker_labels import PERSON_KEYS
from wan.types import TEMPORAL_STRIDE


class AudioProjection(nn.Module):
    """MLP from the windows of a latent frame's video frames to K context tokens per person."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        layer_dim = config.audio_layers * config.audio_dim
        window = config.audio_window
        self.window = window
        self.context_tokens = config.context_tokens
        self.proj1 = nn.Linear(window * layer_dim, config.intermediate_dim)
        self.proj1_vf = nn.Linear((window + TEMPORAL_STRIDE - 1) * layer_dim, config.intermediate_dim)
        self.proj2 = nn.Linear(config.intermediate_dim, config.intermediate_dim)
        self.proj3 = nn.Linear(config.intermediate_dim, config.context_tokens * config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)

    def forward(self, windows_BNFWYC: Tensor) -> Tensor:
        """B x N x F x W x Y x C to B x T x (N K) x output_dim, the tokens of person 1 first in each frame."""
        first = F.relu(self.proj1(windows_BNFWYC[:, :, 0].flatten(2)))
        later = F.relu(self.proj1_vf(self._groups(windows_BNFWYC[:, :, 1:])))
        hidden_BNTI = F.relu(self.proj2(torch.cat((first[:, :, None], later), dim=2)))
        tokens = rearrange(self.proj3(hidden_BNTI), "b n t (k c) -> b n t k c", k=self.context_tokens)
        return rearrange(self.norm(tokens), "b n t k c -> b t (n k) c")

    def _groups(self, windows: Tensor) -> Tensor:
        """Window positions of each group of four frames, flattened: the first half of the first frame's window with
        its middle, the middle of the frames between, the middle and second half of the last frame's window."""
        groups = rearrange(windows, "b n (t f) w y c -> b n t f w (y c)", f=TEMPORAL_STRIDE)
        middle = self.window // 2
        positions = torch.cat(
            (
                groups[..., 0, : middle + 1, :],
                groups[..., 1:-1, middle, :],
                groups[..., -1, middle:, :],
            ),
            dim=-2,
        )
        return positions.flatten(-2)


class AudioCrossAttention(nn.Module):
    """Cross-attention of each latent frame to its speech tokens; label RoPE binds video tokens to speakers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.dim, config.dim)
        self.kv_linear = nn.Linear(config.output_dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def keys_values(self, tokens_BTKC: Tensor, num_persons: int) -> KeyValue:
        """Keys and values of the speech tokens, (B T) x (N K) x A x E; label RoPE on the keys of two persons."""
        kv = rearrange(self.kv_linear(tokens_BTKC), "b t k (two a e) -> two (b t) k a e", two=2, a=self.num_heads)
        k, v = kv.unbind(0)
        if num_persons > 1:
            labels_K = torch.tensor(PERSON_KEYS, device=k.device).repeat_interleave(k.shape[1] // num_persons)
            k = apply_label_rope(k, labels_K.expand(len(k), -1))
        return KeyValue(k.contiguous(), v.contiguous())  # views would keep `kv` alive

    def forward(self, x_BLD: Tensor, speech: KeyValue, labels_BL: Tensor | None) -> Tensor:
        """B x L x D to the same shape. `labels_BL` None: one person, no label RoPE."""
        batch = x_BLD.shape[0]
        q = split_heads(self.q_linear(x_BLD), self.num_heads)
        if labels_BL is not None:
            q = apply_label_rope(q, labels_BL)
        frames = speech.k.shape[0] // batch
        out = attention(rearrange(q, "b (t s) a e -> (b t) s a e", t=frames), speech.k, speech.v)
        return self.proj(rearrange(out, "(b t) s a e -> b (t s) (a e)", b=batch))
