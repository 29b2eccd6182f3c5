"""Eager baseline of the transformer, the reference of every speedup. Frozen: do not optimize.

Computes what the published implementations compute, without artificial inefficiency: separate q, k and v projections,
RoPE in float64 from CPU tables at every call, the full label map at every call, unfused norms, and everything that is
constant in a clip recomputed in every pass. dtype, threads and the attention function are those of `wan.modules`.

Shapes: B = 1, C channels, T latent frames, H x W latent rows and columns, L = T S tokens, S tokens of a frame, D width,
A heads, E head width, N persons.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from wan.configs.schema import TransformerConfig
from wan.modules.attention import attention

_HEAD_GROUPS = 2
"""The label map is computed in this many groups of heads, to bound its memory."""


class EagerTransformer:
    """Functional forward over the published weights, by state dict key."""

    def __init__(self, weights: Mapping[str, Tensor], config: TransformerConfig) -> None:
        self.w, self.config = weights, config
        spatial = 2 * (config.head_dim // 6)
        widths = (config.head_dim - 2 * spatial, spatial, spatial)
        self.tables = [_table(width) for width in widths]

    def __call__(
        self,
        latent_CTHW: Tensor,
        condition_CTHW: Tensor,
        t: Tensor,
        text_SC: Tensor,
        image_SC: Tensor,
        windows_NFWYC: Tensor,
        masks_3HW: Tensor,
    ) -> Tensor:
        """Velocity, float32, of the shape of `latent_CTHW`; `t` is one time step 0..1000."""
        config, dtype = self.config, self.w["patch_embedding.weight"].dtype
        patched = torch.cat((latent_CTHW, condition_CTHW))[None].to(dtype)
        x = F.conv3d(patched, self.w["patch_embedding.weight"], self.w["patch_embedding.bias"], stride=(1, 2, 2))
        grid = (x.shape[2], x.shape[3], x.shape[4])
        x = rearrange(x, "b d t h w -> b (t h w) d")
        half = config.freq_dim // 2
        angles = t.double() * 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=t.device) / half)
        e = self.mlp("time_embedding", torch.cat((angles.cos(), angles.sin()))[None].float(), F.silu)
        e0 = self.linear("time_projection.1", F.silu(e)).unflatten(1, (6, -1))
        padded = F.pad(text_SC[None].to(dtype), (0, 0, 0, config.text_len - len(text_SC)))
        text = self.mlp("text_embedding", padded, lambda h: F.gelu(h, approximate="tanh"))
        image = self.image(image_SC[None].to(dtype))
        speech = self.speech(windows_NFWYC.to(dtype))
        masks_3S = F.interpolate(masks_3HW[None].float(), grid[1:], mode="nearest")[0].flatten(1)
        for index in range(config.num_layers):
            x = self.block(f"blocks.{index}", x, e0, grid, (text, image, speech), masks_3S)
        shift, scale = (self.w["head.modulation"] + e[:, None]).unbind(1)
        x = F.layer_norm(x.float(), x.shape[-1:], eps=config.eps) * (1 + scale[:, None]) + shift[:, None]
        patches = self.linear("head.head", x)[0]
        if x.is_cuda:
            torch.cuda.empty_cache()
        rows, columns = grid[1:]
        return rearrange(patches, "(t r c) (p q ch) -> ch t (r p) (c q)", r=rows, c=columns, p=2, q=2)

    def block(
        self,
        name: str,
        x: Tensor,
        e0: Tensor,
        grid: tuple[int, int, int],
        contexts: tuple[Tensor, Tensor, Tensor],
        masks_3S: Tensor,
    ) -> Tensor:
        """One transformer block on the tokens, 1 x L x D."""
        text, image, speech = contexts
        e = (self.w[f"{name}.modulation"] + e0).chunk(6, dim=1)
        h = (self.norm(x).float() * (1 + e[1]) + e[0]).to(x.dtype)
        q = self.rope(self.heads(self.rms(f"{name}.self_attn.norm_q", self.linear(f"{name}.self_attn.q", h))), grid)
        k = self.rope(self.heads(self.rms(f"{name}.self_attn.norm_k", self.linear(f"{name}.self_attn.k", h))), grid)
        v = self.heads(self.linear(f"{name}.self_attn.v", h))
        h = self.linear(f"{name}.self_attn.o", attention(q, k, v).flatten(2))
        labels_L = self.labels(q, k, masks_3S)
        x = (x.float() + h.float() * e[2]).to(x.dtype)
        x = x + self.cross(f"{name}.cross_attn", self.norm(x, f"{name}.norm3"), text, image)
        h = self.norm(x, f"{name}.norm_x")
        x = x + self.audio(f"{name}.audio_cross_attn", h, speech, labels_L, grid[0])
        h = (self.norm(x).float() * (1 + e[4]) + e[3]).to(x.dtype)
        h = self.linear(f"{name}.ffn.2", F.gelu(self.linear(f"{name}.ffn.0", h), approximate="tanh"))
        return (x.float() + h.float() * e[5]).to(x.dtype)

    def cross(self, name: str, x: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """Cross-attention to text and image, including their key and value projections."""
        q = self.heads(self.rms(f"{name}.norm_q", self.linear(f"{name}.q", x)))
        k = self.heads(self.rms(f"{name}.norm_k", self.linear(f"{name}.k", text)))
        k_image = self.heads(self.rms(f"{name}.norm_k_img", self.linear(f"{name}.k_img", image)))
        v, v_image = self.heads(self.linear(f"{name}.v", text)), self.heads(self.linear(f"{name}.v_img", image))
        out = attention(q, k, v).flatten(2) + attention(q, k_image, v_image).flatten(2)
        return self.linear(f"{name}.o", out)

    def audio(self, name: str, x: Tensor, speech_TKC: Tensor, labels_L: Tensor, frames: int) -> Tensor:
        """Per-frame cross-attention to speech; for two persons with RoPE by speaker label."""
        q = self.heads(self.linear(f"{name}.q_linear", x))
        k, v = (self.heads(part) for part in self.linear(f"{name}.kv_linear", speech_TKC).chunk(2, dim=-1))
        persons = k.shape[1] // self.config.context_tokens
        if persons == 2:
            label_K = torch.tensor([2.0, 22.0], device=k.device).repeat_interleave(self.config.context_tokens)
            q, k = self.label_rope(q, labels_L), self.label_rope(k, label_K)
        out = attention(rearrange(q, "b (t s) a e -> (b t) s a e", t=frames), k, v)
        return self.linear(f"{name}.proj", rearrange(out, "t s a e -> 1 (t s) (a e)"))

    def labels(self, q: Tensor, k: Tensor, masks_3S: Tensor) -> Tensor:
        """Speaker label of every token (L), from its attention map to the tokens of the first frame."""
        first_k = k[0, : masks_3S.shape[1]]
        sizes = masks_3S.sum(1).clamp(min=1)
        maps = []
        for heads in torch.arange(q.shape[2], device=q.device).chunk(_HEAD_GROUPS):
            scores = torch.einsum("lae,sae->als", q[0][:, heads], first_k[:, heads]) / math.sqrt(q.shape[-1])
            maps.append(torch.einsum("als,cs->acl", scores.float().softmax(-1), masks_3S) / sizes[:, None])
        map_3L = torch.cat(maps).mean(0)
        low, high = map_3L.amin(1, keepdim=True), map_3L.amax(1, keepdim=True)
        normalized = (map_3L - low) / (high - low + 1e-8)
        values = torch.stack((normalized[0] * 4, 20 + normalized[1] * 4, torch.full_like(normalized[2], 12.0)))
        winner = map_3L.masked_fill(masks_3S.sum(1)[:, None] == 0, -1).argmax(0)
        return values.gather(0, winner[None])[0]

    def speech(self, windows_NFWYC: Tensor) -> Tensor:
        """Speech windows to context tokens, T x (N K) x C."""
        first = F.relu(self.linear("audio_proj.proj1", windows_NFWYC[:, :1].flatten(2)))
        groups = rearrange(windows_NFWYC[:, 1:], "n (t f) w y c -> n t f w (y c)", f=4)
        middle = self.config.audio_window // 2
        parts = (groups[:, :, 0, : middle + 1], groups[:, :, 1:3, middle], groups[:, :, 3, middle:])
        later = F.relu(self.linear("audio_proj.proj1_vf", torch.cat(parts, dim=2).flatten(2)))
        hidden = F.relu(self.linear("audio_proj.proj2", torch.cat((first, later), dim=1)))
        tokens = self.linear("audio_proj.proj3", hidden).unflatten(-1, (self.config.context_tokens, -1))
        return rearrange(self.affine_norm("audio_proj.norm", tokens), "n t k c -> t (n k) c")

    def image(self, tokens: Tensor) -> Tensor:
        """Project CLIP tokens to the model width."""
        h = F.gelu(self.linear("img_emb.proj.1", self.affine_norm("img_emb.proj.0", tokens)))
        return self.affine_norm("img_emb.proj.4", self.linear("img_emb.proj.3", h))

    def rope(self, x_BLAE: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """3-D RoPE in float64: the table of this size is assembled on the CPU and copied to the device."""
        axes = [table[:n] for table, n in zip(self.tables, grid, strict=True)]
        shapes = [(-1, 1, 1), (1, -1, 1), (1, 1, -1)]
        rotations = torch.cat(
            [a.view(*s, a.shape[1]).expand(*grid, -1) for a, s in zip(axes, shapes, strict=True)], dim=-1
        )
        pairs = torch.view_as_complex(x_BLAE.double().unflatten(-1, (-1, 2)))
        rotated = pairs * rotations.flatten(0, 2)[:, None].to(x_BLAE.device)
        return torch.view_as_real(rotated).flatten(-2).to(x_BLAE.dtype)

    def label_rope(self, x_BLAE: Tensor, labels_L: Tensor) -> Tensor:
        """1-D RoPE with labels as positions, in float32."""
        width = x_BLAE.shape[-1]
        frequencies = 10000.0 ** -(torch.arange(0, width, 2, device=x_BLAE.device).double() / width)
        angles = (labels_L[:, None].float() * frequencies.float()).repeat_interleave(2, dim=-1)[:, None]
        a, b = x_BLAE.float().unflatten(-1, (-1, 2)).unbind(-1)
        return (x_BLAE * angles.cos() + torch.stack((-b, a), dim=-1).flatten(-2) * angles.sin()).to(x_BLAE.dtype)

    def norm(self, x: Tensor, name: str = "") -> Tensor:
        """Layer norm in float32; affine if a name is given."""
        weight, bias = (self.w[f"{name}.{p}"].float() if name else None for p in ("weight", "bias"))
        return F.layer_norm(x.float(), x.shape[-1:], weight, bias, self.config.eps).to(x.dtype)

    def affine_norm(self, name: str, x: Tensor) -> Tensor:
        """Affine layer norm with PyTorch's default epsilon."""
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def rms(self, name: str, x: Tensor) -> Tensor:
        """RMS norm over the full width in float32, cast to the input dtype before the weight is applied."""
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.config.eps)
        return h.to(x.dtype) * self.w[f"{name}.weight"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Linear layer by name."""
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def mlp(self, name: str, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Two linear layers with an activation between them."""
        return self.linear(f"{name}.2", activation(self.linear(f"{name}.0", x)))

    def heads(self, x_BLD: Tensor) -> Tensor:
        """B x L x D to B x L x A x E."""
        return x_BLD.unflatten(-1, (self.config.num_heads, -1))


def _table(width: int, length: int = 1024) -> Tensor:
    """exp(i * position * frequency), length x width / 2, complex128."""
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    return torch.polar(torch.ones_like(angles), angles)
