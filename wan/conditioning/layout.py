"""A picture on the model's grid, with everybody's place in it; made before any network runs.

Shapes: H x W latent rows and columns; 3 classes: person 1, person 2, background.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wan.conditioning.image import Crop, choose_size, plan_crop
from wan.conditioning.speakers import PersonRegion, latent_masks
from wan.configs.schema import BucketTable
from wan.types import SPATIAL_STRIDE, Aspect


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayout:
    """How the picture is cropped, and the masks 3 x H/8 x W/8 of the persons in the crop."""

    crop: Crop
    masks: Tensor


def layout_image(
    height: int,
    width: int,
    buckets: BucketTable,
    persons: int,
    regions: tuple[PersonRegion, PersonRegion] | None,
    aspect: Aspect = "bucket",
) -> ImageLayout:
    """Choose the video's size for a picture of height x width pixels and find the persons on its grid.

    One person has the whole picture: all masks are ones. Raises `SpeakerError` when a person has no place left.
    """
    crop = plan_crop(height, width, choose_size(height, width, buckets, aspect))
    if persons == 2:
        return ImageLayout(crop=crop, masks=latent_masks(height, width, regions, crop))
    rows, columns = (side // SPATIAL_STRIDE for side in crop.size)
    return ImageLayout(crop=crop, masks=torch.ones(3, rows, columns))
