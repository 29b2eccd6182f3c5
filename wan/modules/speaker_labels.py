"""Who is where: soft speaker labels of the video tokens (L-RoPE of MultiTalk, Kong et al. 2025, section 3.3).

Shapes: B batch, L tokens, S tokens of the first latent frame, A attention heads, E head width;
3 classes: person 1, person 2, background.
"""

import importlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.modules.attention import attention
from wan.modules.kernels.dispatch import use_triton

PERSON_RANGES = ((0.0, 4.0), (20.0, 24.0))
"""Range of labels over which each person's tokens spread."""
PERSON_KEYS = (2.0, 22.0)
"""Label of each person's audio tokens: the middle of the range."""
BACKGROUND_LABEL = 12.0


class SpeakerMasks(NamedTuple):
    """Classes of the first latent frame's tokens: B x S x 3 of zeros and ones, and their sums B x 3, float32."""

    columns: Tensor
    sizes: Tensor


def token_masks(masks_B3HW: Tensor, rows: int, columns: int) -> SpeakerMasks:
    """Latent-grid masks resized to the token grid with nearest, source index floor(i * in / out)."""
    tokens_BS3 = F.interpolate(masks_B3HW.float(), (rows, columns), mode="nearest").flatten(2).transpose(1, 2)
    return SpeakerMasks(tokens_BS3, tokens_BS3.sum(1))


def speaker_labels(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
    """Label of every token, float32 B x L, from a block's self-attention queries and keys after norm and RoPE.

    A token belongs to the class whose first-frame tokens it attends to most; inside a person's range it is
    placed by how strongly it does so, relative to the whole clip. An empty class never wins.
    """
    map_BL3 = attention_to_classes(q_BLAE, k_BLAE, masks)
    low, high = map_BL3.aminmax(dim=1, keepdim=True)
    share_BL3 = (map_BL3 - low) / (high - low + 1e-8)
    candidates = [first + share_BL3[..., i] * (last - first) for i, (first, last) in enumerate(PERSON_RANGES)]
    candidates.append(torch.full_like(candidates[0], BACKGROUND_LABEL))
    winner_BL1 = map_BL3.masked_fill(masks.sizes[:, None] == 0, -1.0).argmax(-1, keepdim=True)
    return torch.stack(candidates, -1).gather(-1, winner_BL1).squeeze(-1)


def attention_to_classes(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
    """Mean over heads and over a class's tokens of the attention to the first latent frame: float32 B x L x 3.

    The mask columns serve as values, so the L x S map of probabilities is never stored. In a 16-bit network the plain
    form rounds each head's share once, by the attention that makes it; everything else is float32.
    """
    if use_triton(q_BLAE):
        kernel = importlib.import_module("wan.modules.kernels.class_attention")
        mass_BL3 = kernel.class_mass(q_BLAE, k_BLAE, masks.columns)
    else:
        mass_BL3 = eager_class_attention(q_BLAE, k_BLAE, masks)
    return mass_BL3 / masks.sizes.clamp(min=1)[:, None]


def eager_class_attention(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
    """Mean over heads of the attention's mass on each class, by an attention to columns as wide as a head."""
    tokens, classes = masks.columns.shape[1:]
    heads, width = q_BLAE.shape[2:]
    v_BSE = F.pad(masks.columns, (0, width - classes)).to(q_BLAE.dtype)
    v_BSAE = v_BSE[:, :, None].repeat(1, 1, heads, 1)  # kernels are not trusted with a stride of zero
    return attention(q_BLAE, k_BLAE[:, :tokens], v_BSAE)[..., :classes].float().mean(2)
