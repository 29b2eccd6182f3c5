"""The picture on the model's grid: which bucket, and how it is scaled and cropped.

Shapes: H x W of the picture or the bucket, C = 3.
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
"""Pixels of the scaled picture that a video of the picture's own shape may lose in each direction."""
MIN_AREA_SHARE = 0.8
"""A size with this share of the largest possible area is large enough to be chosen for losing less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Scale to `scaled` (H, W), then cut the bucket's `size` (H, W) out at `top`, `left`."""

    scaled: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int


def nearest_bucket(height: int, width: int, buckets: BucketTable) -> tuple[int, int]:
    """(H, W) of the bucket whose ratio is nearest to height / width; the first one on a tie."""
    ratio = height / width
    return buckets[min(buckets, key=lambda key: abs(float(key) - ratio))]


def choose_size(height: int, width: int, buckets: BucketTable, aspect: Aspect) -> tuple[int, int]:
    """(H, W) of the video for a picture of height x width pixels."""
    if aspect == "bucket":
        return nearest_bucket(height, width, buckets)
    return size_for_aspect(height, width, max(h * w for h, w in buckets.values()))


def size_for_aspect(height: int, width: int, budget: int) -> tuple[int, int]:
    """(H, W) in multiples of 16 of at most `budget` pixels, from which at most MAX_CROP pixels are cropped in each
    direction; of those that are large enough the one that loses the smallest share of the picture."""
    sizes = {size: _cropped_fraction(height, width, size) for size in _token_sizes(height, width, budget)}
    largest = max(h * w for h, w in sizes)
    return min(
        (size for size in sizes if size[0] * size[1] >= MIN_AREA_SHARE * largest),
        key=lambda size: (sizes[size], -size[0] * size[1]),
    )


def _token_sizes(height: int, width: int, budget: int) -> Iterator[tuple[int, int]]:
    """Sizes close to the picture's shape that crop little enough."""
    step = PIXELS_PER_TOKEN
    for rows in range(step, budget // step + 1, step):
        nearest = rows * width // (height * step) * step
        for columns in (nearest, nearest + step):
            if 0 < rows * columns <= budget:
                crop = plan_crop(height, width, (rows, columns))
                if all(0 <= all_ - kept <= MAX_CROP for all_, kept in zip(crop.scaled, crop.size, strict=True)):
                    yield crop.size


def _cropped_fraction(height: int, width: int, size: tuple[int, int]) -> Fraction:
    """The share of the picture that is cropped away."""
    scale = max(Fraction(size[0], height), Fraction(size[1], width))
    return 1 - size[0] * size[1] / (scale * height * scale * width)


def plan_crop(height: int, width: int, bucket: tuple[int, int]) -> Crop:
    """Cover the bucket, and keep the middle."""
    scale = max(bucket[0] / height, bucket[1] / width)
    scaled = (math.ceil(scale * height), math.ceil(scale * width))
    top, left = (round((size - wanted) / 2) for size, wanted in zip(scaled, bucket, strict=True))
    return Crop(scaled=scaled, size=bucket, top=top, left=left)


def crop_image(picture: Image.Image, crop: Crop) -> Tensor:
    """An 8-bit RGB picture to float32 3 x H x W in [-1, 1]; Pillow's bilinear filter, which antialiases."""
    scaled = picture.resize((crop.scaled[1], crop.scaled[0]), Image.Resampling.BILINEAR)
    height, width = crop.size
    pixels = np.array(scaled.crop((crop.left, crop.top, crop.left + width, crop.top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1
