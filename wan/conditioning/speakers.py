"""Where each speaker is: masks from boxes or halves of the picture.

Shapes: H x W of a picture; 3 classes: person 1, person 2, background.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.conditioning.picture import Crop
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


def half_boxes(height: int, width: int) -> tuple[Box, Box]:
    """The left and the right half of a picture, each less a margin of 5 %."""
    half = width // 2
    top, bottom = int(height * _MARGIN), int(height * (1 - _MARGIN))
    left, right = int(half * _MARGIN), int(half * (1 - _MARGIN))
    return (
        Box(top=top, left=left, bottom=bottom, right=right),
        Box(top=top, left=left + half, bottom=bottom, right=right + half),
    )


def latent_masks(height: int, width: int, boxes: tuple[Box, Box] | None, crop: Crop) -> Tensor:
    """Masks 3 x H/8 x W/8 of both persons and of what neither owns: zeros and ones.

    They are what masks on the picture's own grid become when they are scaled and cropped as the picture and resized to
    the latent grid, with nearest each time. That only selects rows and columns: no mask of the picture's size is made.
    Raises `SpeakerError` when a person or the background has no token left: nothing could then be bound to it.
    """
    rows = _latent_sources(height, crop.scaled[0], crop.top, crop.size[0])
    columns = _latent_sources(width, crop.scaled[1], crop.left, crop.size[1])
    persons = [
        ((rows >= box.top) & (rows < box.bottom))[:, None] & ((columns >= box.left) & (columns < box.right))
        for box in boxes or half_boxes(height, width)
    ]
    masks = torch.stack([*persons, ~(persons[0] | persons[1])]).float()
    grid = (len(rows) // PATCH, len(columns) // PATCH)
    tokens = F.interpolate(masks[None], grid, mode="nearest")[0].sum((1, 2))
    for owner, count in zip(("person 1", "person 2", "the background"), tokens.tolist(), strict=True):
        if count == 0:
            raise SpeakerError(
                f"{_describe(boxes)}: nothing of {owner} is left on the model's grid of {grid[1]} x {grid[0]} tokens "
                f"after the picture of {width} x {height} pixels is scaled and cropped; "
                "every person, and the background, needs at least one token"
            )
    return masks


def _latent_sources(side: int, scaled: int, first: int, size: int) -> Tensor:
    """For each latent row (or column) the row of the picture that it shows."""
    places = torch.arange(side, dtype=torch.float64)[None, None]
    cropped = F.interpolate(places, scaled, mode="nearest")[..., first : first + size]
    return F.interpolate(cropped, size // SPATIAL_STRIDE, mode="nearest")[0, 0]


def _describe(boxes: tuple[Box, Box] | None) -> str:
    if boxes is None:
        return "no boxes (left and right half)"
    return "boxes " + "; ".join(f"rows {b.top} to {b.bottom}, columns {b.left} to {b.right}" for b in boxes)
