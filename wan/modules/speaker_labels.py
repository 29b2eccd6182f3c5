"""Soft speaker labels of the video tokens, which bind tokens to voices (L-RoPE, Kong et al. 2025, section 3.3).

Shapes: B batch, L tokens, S tokens of the first latent frame, A attention heads, E head width;
3 classes: person 1, person 2, background.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.modules.attention import attention
from wan.modules.kernels.dispatch import use_triton
from wan.modules.sequence_parallel import SINGLE_DEVICE, SequenceParallel

PERSON_RANGES = ((0.0, 4.0), (20.0, 24.0))
"""Lowest and highest label of each person's tokens."""
PERSON_KEYS = (2.0, 22.0)
"""Label of each person's audio tokens: the middle of the range."""
BACKGROUND_LABEL = 12.0


class SpeakerMasks(NamedTuple):
    """Class masks of the first latent frame's tokens, B x S x 3 of 0 and 1, and their token counts, B x 3; float32."""

    masks: Tensor
    counts: Tensor


def token_masks(masks_B3HW: Tensor, rows: int, columns: int) -> SpeakerMasks:
    """Resize masks of the latent grid to the token grid (nearest neighbor, source index floor(i * in / out))."""
    tokens_BS3 = F.interpolate(masks_B3HW.float(), (rows, columns), mode="nearest").flatten(2).transpose(1, 2)
    return SpeakerMasks(tokens_BS3, tokens_BS3.sum(1))


def speaker_labels(
    q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks, parallel: SequenceParallel = SINGLE_DEVICE
) -> Tensor:
    """Label of each token, float32 B x L, from a block's self-attention queries and keys after norm and RoPE.

    Queries and keys are of all tokens and of this rank's heads; the labels are the same on every rank.

    A token gets the class whose first-frame tokens it attends to most. Its position in that person's range is its
    attention to the class, min-max normalized over all tokens. A class without tokens is never chosen.
    """
    map_BL3 = parallel.mean(attention_to_classes(q_BLAE, k_BLAE, masks))
    low, high = map_BL3.aminmax(dim=1, keepdim=True)
    relative_BL3 = (map_BL3 - low) / (high - low + 1e-8)
    candidates = [first + relative_BL3[..., i] * (last - first) for i, (first, last) in enumerate(PERSON_RANGES)]
    candidates.append(torch.full_like(candidates[0], BACKGROUND_LABEL))
    winner_BL1 = map_BL3.masked_fill(masks.counts[:, None] == 0, -1.0).argmax(-1, keepdim=True)
    return torch.stack(candidates, -1).gather(-1, winner_BL1).squeeze(-1)


def attention_to_classes(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
    """Mean over heads and over a class's tokens of the attention to the first latent frame, float32 B x L x 3.

    The masks serve as attention values, so the L x S probabilities are never stored. In 16 bits the eager form rounds
    each head's mass once, in the output of `attention`; everything else is float32.
    """
    if use_triton(q_BLAE):
        from wan.modules.kernels import class_attention as kernels

        mass_BL3 = kernels.class_attention(q_BLAE, k_BLAE, masks.masks)
    else:
        mass_BL3 = eager_class_attention(q_BLAE, k_BLAE, masks)
    return mass_BL3 / masks.counts.clamp(min=1)[:, None]


def eager_class_attention(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
    """Mean over heads of the softmax mass on each class: `attention` with masks padded to head width as values."""
    tokens, classes = masks.masks.shape[1:]
    heads, width = q_BLAE.shape[2:]
    v_BSE = F.pad(masks.masks, (0, width - classes)).to(q_BLAE.dtype)
    v_BSAE = v_BSE[:, :, None].repeat(1, 1, heads, 1)  # contiguous: some attention kernels need nonzero strides
    return attention(q_BLAE, k_BLAE[:, :tokens], v_BSAE)[..., :classes].float().mean(2)
