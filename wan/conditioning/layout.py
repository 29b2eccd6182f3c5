"""An image on the model's grid: its crop, and the persons' masks; computed before any network runs.

Shapes: H x W of the image or the latent; 3 classes: person 1, person 2, background.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wan.conditioning.image import Crop, choose_size, plan_crop
from wan.conditioning.speakers import PersonMasks, latent_masks
from wan.configs.schema import BucketTable
from wan.types import SPATIAL_STRIDE, Aspect


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayout:
    """How the image is cropped, and the float masks 3 x H/8 x W/8 of the persons in the crop."""

    crop: Crop
    masks: Tensor


def layout_image(
    height: int,
    width: int,
    buckets: BucketTable,
    num_persons: int,
    person_masks: PersonMasks | None,
    aspect: Aspect = "bucket",
) -> ImageLayout:
    """Choose the video's size for an image of height x width pixels, and map the persons to its latent grid.

    With one person all masks are ones. Raises `SpeakerError` when a person covers no token.
    """
    crop = plan_crop(height, width, choose_size(height, width, buckets, aspect))
    if num_persons == 2:
        return ImageLayout(crop=crop, masks=latent_masks(height, width, person_masks, crop))
    rows, columns = (side // SPATIAL_STRIDE for side in crop.size)
    return ImageLayout(crop=crop, masks=torch.ones(3, rows, columns))
