"""The size of a video, and how the image is scaled and cropped to it.

Shapes: H x W of the image or the video, C = 3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wan.configs.schema import BucketTable
from wan.types import PIXELS_PER_TOKEN, Aspect

MAX_CROP = 16
"""With `aspect="source"`: most pixels of the scaled image that are cropped in each direction."""
MIN_AREA_SHARE = 0.8
"""With `aspect="source"`: the least area of a size, as a share of the largest possible one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Scale to `scaled` (H, W), then crop `size` (H, W) at `top`, `left`."""

    scaled: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int


def nearest_bucket(height: int, width: int, buckets: BucketTable) -> tuple[int, int]:
    """(H, W) of the bucket whose ratio is nearest to height / width; the first one on a tie."""
    ratio = height / width
    return buckets[min(buckets, key=lambda key: abs(float(key) - ratio))]


def choose_size(height: int, width: int, buckets: BucketTable, aspect: Aspect) -> tuple[int, int]:
    """(H, W) of the video for an image of height x width pixels."""
    if aspect == "bucket":
        return nearest_bucket(height, width, buckets)
    return size_for_aspect(height, width, max(h * w for h, w in buckets.values()))


def size_for_aspect(height: int, width: int, budget: int) -> tuple[int, int]:
    """(H, W) in multiples of 16 of at most `budget` pixels: of the sizes that are large enough (MIN_AREA_SHARE) and for
    which at most MAX_CROP pixels are cropped in each direction, the one that crops the smallest fraction."""
    sizes = {size: _cropped_fraction(height, width, size) for size in _token_sizes(height, width, budget)}
    largest = max(h * w for h, w in sizes)
    return min(
        (size for size in sizes if size[0] * size[1] >= MIN_AREA_SHARE * largest),
        key=lambda size: (sizes[size], -size[0] * size[1]),
    )


def _token_sizes(height: int, width: int, budget: int) -> Iterator[tuple[int, int]]:
    """Sizes of about the image's aspect ratio within MAX_CROP."""
    step = PIXELS_PER_TOKEN
    for rows in range(step, budget // step + 1, step):
        nearest = rows * width // (height * step) * step
        for columns in (nearest, nearest + step):
            if 0 < rows * columns <= budget:
                crop = plan_crop(height, width, (rows, columns))
                if all(0 <= scaled - kept <= MAX_CROP for scaled, kept in zip(crop.scaled, crop.size, strict=True)):
                    yield crop.size


def _cropped_fraction(height: int, width: int, size: tuple[int, int]) -> Fraction:
    """The fraction of the image's area that is cropped."""
    scale = max(Fraction(size[0], height), Fraction(size[1], width))
    return 1 - size[0] * size[1] / (scale * height * scale * width)


def plan_crop(height: int, width: int, size: tuple[int, int]) -> Crop:
    """Scale the image to cover `size` (H, W), then crop the center."""
    scale = max(size[0] / height, size[1] / width)
    scaled = (math.ceil(scale * height), math.ceil(scale * width))
    top, left = (round((side - kept) / 2) for side, kept in zip(scaled, size, strict=True))
    return Crop(scaled=scaled, size=size, top=top, left=left)


def crop_image(image: Image.Image, crop: Crop) -> Tensor:
    """An 8-bit RGB image to float32 3 x H x W in [-1, 1]; Pillow's bilinear filter, which antialiases."""
    scaled = image.resize((crop.scaled[1], crop.scaled[0]), Image.Resampling.BILINEAR)
    height, width = crop.size
    pixels = np.array(scaled.crop((crop.left, crop.top, crop.left + width, crop.top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1
