"""Which latent samples belong to which speaker: masks of the image, or its halves, on the latent grid.

Shapes: H x W of an image; 3 classes: person 1, person 2, background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.conditioning.image import Crop
from wan.types import PATCH, SPATIAL_STRIDE

PersonMasks = tuple[Tensor, Tensor]
"""Pixels of person 1 and person 2, bool H x W of the image. They may overlap."""

_MARGIN = 0.05


class SpeakerError(ValueError):
    """A person covers no token of the model's grid, or the persons cover the same."""


def box_mask(height: int, width: int, *, top: int, left: int, bottom: int, right: int) -> Tensor:
    """Bool H x W: rows [top, bottom), columns [left, right)."""
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


def half_masks(height: int, width: int) -> PersonMasks:
    """The left and the right half of an image, each less a margin of 5 %."""
    half = width // 2
    top, bottom = int(height * _MARGIN), int(height * (1 - _MARGIN))
    left, right = int(half * _MARGIN), int(half * (1 - _MARGIN))
    return (
        box_mask(height, width, top=top, left=left, bottom=bottom, right=right),
        box_mask(height, width, top=top, left=left + half, bottom=bottom, right=right + half),
    )


def latent_masks(height: int, width: int, person_masks: PersonMasks | None, crop: Crop) -> Tensor:
    """Float masks 3 x H/8 x W/8 of zeros and ones: both persons, and the background, which is the rest.

    Equal to scaling and cropping the masks as the image and resizing them to the latent grid, with nearest-neighbor
    interpolation each time, which only selects rows and columns. Without masks the persons are the image's halves.
    Raises `SpeakerError` when a person covers no token or both cover the same. The background may be empty: then no
    token has its label.
    """
    rows = _source_indices(height, crop.scaled[0], crop.top, crop.size[0])
    columns = _source_indices(width, crop.scaled[1], crop.left, crop.size[1])
    persons = [mask_HW[rows[:, None], columns] for mask_HW in person_masks or half_masks(height, width)]
    masks = torch.stack([*persons, ~(persons[0] | persons[1])]).float()
    grid = (len(rows) // PATCH, len(columns) // PATCH)
    tokens = F.interpolate(masks[None], grid, mode="nearest")[0].sum((1, 2))
    for person, count in zip(("person 1", "person 2"), tokens.tolist(), strict=False):
        if count == 0:
            raise SpeakerError(
                f"{_describe(person_masks)}: nothing of {person} is left on the model's grid of {grid[1]} x {grid[0]} "
                f"tokens after the image of {width} x {height} pixels is scaled and cropped; "
                "every person needs at least one token; one person who fills the image needs no box or mask"
            )
    if torch.equal(masks[0], masks[1]):
        raise SpeakerError(
            f"{_describe(person_masks)}: both persons cover the same area, so that their mouths cannot be told apart; "
            "different areas are needed, which may overlap"
        )
    return masks


def _source_indices(side: int, scaled: int, first: int, size: int) -> Tensor:
    """For each latent row (or column) the index of the image's row that it samples."""
    indices = torch.arange(side, dtype=torch.float64)[None, None]
    cropped = F.interpolate(indices, scaled, mode="nearest")[..., first : first + size]
    return F.interpolate(cropped, size // SPATIAL_STRIDE, mode="nearest")[0, 0].long()


def _describe(person_masks: PersonMasks | None) -> str:
    if person_masks is None:
        return "the left and the right half of the image"
    return "; ".join(map(_describe_mask, person_masks))


def _describe_mask(mask_HW: Tensor) -> str:
    """A filled rectangle by its sides, any other mask by its area."""
    count = int(mask_HW.sum())
    rows, columns = (mask_HW.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    if count and count == (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0]):
        return f"rows {rows[0]} to {rows[-1] + 1}, columns {columns[0]} to {columns[-1] + 1}"
    return f"a mask of {count:,} pixels"
