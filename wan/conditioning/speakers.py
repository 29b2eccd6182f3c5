"""Where each speaker is: masks from boxes, drawn masks or halves of the picture.

Shapes: H x W of a picture; 3 classes: person 1, person 2, background.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.conditioning.image import Crop
from wan.types import PATCH, SPATIAL_STRIDE

_MARGIN = 0.05


class SpeakerError(ValueError):
    """A person has no place left on the model's grid."""


class PersonRegion(Protocol):
    """A person's part of a picture."""

    def covers(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Which of the pixels in the given rows and columns of the picture are the person's: bool, rows x columns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRegion:
    """A person's rectangle in pixels of the picture, half open: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def covers(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See `PersonRegion`."""
        return ((rows >= self.top) & (rows < self.bottom))[:, None] & ((columns >= self.left) & (columns < self.right))

    def __str__(self) -> str:
        return f"rows {self.top} to {self.bottom}, columns {self.left} to {self.right}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskRegion:
    """A person's pixels, bool, H x W of the picture."""

    pixels_HW: Tensor

    def covers(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See `PersonRegion`."""
        return self.pixels_HW[rows.long()[:, None], columns.long()]

    def __str__(self) -> str:
        return f"a mask of {int(self.pixels_HW.sum()):,} pixels"


def half_boxes(height: int, width: int) -> tuple[BoxRegion, BoxRegion]:
    """The left and the right half of a picture, each less a margin of 5 %."""
    half = width // 2
    top, bottom = int(height * _MARGIN), int(height * (1 - _MARGIN))
    left, right = int(half * _MARGIN), int(half * (1 - _MARGIN))
    return (
        BoxRegion(top=top, left=left, bottom=bottom, right=right),
        BoxRegion(top=top, left=left + half, bottom=bottom, right=right + half),
    )


def latent_masks(height: int, width: int, regions: tuple[PersonRegion, PersonRegion] | None, crop: Crop) -> Tensor:
    """Masks 3 x H/8 x W/8 of both persons and of what neither owns: zeros and ones.

    They are what masks on the picture's own grid become when they are scaled and cropped as the picture and resized to
    the latent grid, with nearest each time. That only selects rows and columns.
    Raises `SpeakerError` when a person has no token left: nothing could then be bound to it. The background may be
    empty; no token is then labelled as background.
    """
    rows = _latent_sources(height, crop.scaled[0], crop.top, crop.size[0])
    columns = _latent_sources(width, crop.scaled[1], crop.left, crop.size[1])
    persons = [region.covers(rows, columns) for region in regions or half_boxes(height, width)]
    masks = torch.stack([*persons, ~(persons[0] | persons[1])]).float()
    grid = (len(rows) // PATCH, len(columns) // PATCH)
    tokens = F.interpolate(masks[None], grid, mode="nearest")[0].sum((1, 2))
    for owner, count in zip(("person 1", "person 2"), tokens.tolist(), strict=False):
        if count == 0:
            raise SpeakerError(
                f"{_describe(regions)}: nothing of {owner} is left on the model's grid of {grid[1]} x {grid[0]} tokens "
                f"after the picture of {width} x {height} pixels is scaled and cropped; "
                "every person needs at least one token"
            )
    return masks


def _latent_sources(side: int, scaled: int, first: int, size: int) -> Tensor:
    """For each latent row (or column) the row of the picture that it shows."""
    places = torch.arange(side, dtype=torch.float64)[None, None]
    cropped = F.interpolate(places, scaled, mode="nearest")[..., first : first + size]
    return F.interpolate(cropped, size // SPATIAL_STRIDE, mode="nearest")[0, 0]


def _describe(regions: tuple[PersonRegion, PersonRegion] | None) -> str:
    if regions is None:
        return "no regions (left and right half)"
    return "; ".join(map(str, regions))
