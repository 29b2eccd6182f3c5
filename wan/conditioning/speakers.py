"""Where each speaker is: masks from boxes or halves of the picture.

Shapes: H x W of a picture; 3 classes: person 1, person 2, background.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.conditioning.picture import Crop, crop_masks
from wan.types import PATCH, SPATIAL_STRIDE

_MARGIN = 0.05


class SpeakerError(ValueError):
    """A person, or the background, has no place left on the model's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A person's rectangle in pixels of the picture, half open: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int


def picture_masks(height: int, width: int, boxes: tuple[Box, Box] | None) -> Tensor:
    """Masks of two persons and the background, float32 3 x H x W of zeros and ones.

    Without boxes: the left half of the picture is person 1, the right half person 2, each less a margin of 5 %.
    """
    if boxes is None:
        half = width // 2
        rows = slice(int(height * _MARGIN), int(height * (1 - _MARGIN)))
        left, right = int(half * _MARGIN), int(half * (1 - _MARGIN))
        spans = [(rows, slice(left, right)), (rows, slice(left + half, right + half))]
    else:
        spans = [(slice(box.top, box.bottom), slice(box.left, box.right)) for box in boxes]
    masks = torch.zeros(3, height, width)
    for mask, (rows, columns) in zip(masks, spans, strict=False):
        mask[rows, columns] = 1
    masks[2] = 1 - masks[:2].amax(0)
    return masks


def latent_masks(height: int, width: int, boxes: tuple[Box, Box] | None, crop: Crop) -> Tensor:
    """The same masks, cropped as the picture and resized with nearest to the latent grid: 3 x H/8 x W/8.

    Raises `SpeakerError` when a person or the background has no token left: nothing could then be bound to it.
    """
    cropped = crop_masks(picture_masks(height, width, boxes), crop)
    rows, columns = (side // SPATIAL_STRIDE for side in crop.size)
    masks = F.interpolate(cropped[None], (rows, columns), mode="nearest")[0]
    tokens = F.interpolate(masks[None], (rows // PATCH, columns // PATCH), mode="nearest")[0].sum((1, 2))
    for owner, count in zip(("person 1", "person 2", "the background"), tokens.tolist(), strict=True):
        if count == 0:
            raise SpeakerError(
                f"{_describe(boxes)}: nothing of {owner} is left on the model's grid of {columns // PATCH} x "
                f"{rows // PATCH} tokens after the picture of {width} x {height} pixels is scaled and cropped; "
                "every person, and the background, needs at least one token"
            )
    return masks


def _describe(boxes: tuple[Box, Box] | None) -> str:
    if boxes is None:
        return "no boxes (left and right half)"
    return "boxes " + "; ".join(f"rows {b.top} to {b.bottom}, columns {b.left} to {b.right}" for b in boxes)
