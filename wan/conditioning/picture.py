"""The picture on the model's grid: which bucket, and how it is scaled and cropped.

Shapes: H x W of the picture or the bucket, C = 3.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wan.configs.schema import BucketTable


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


def plan_crop(height: int, width: int, bucket: tuple[int, int]) -> Crop:
    """Cover the bucket, and keep the middle."""
    scale = max(bucket[0] / height, bucket[1] / width)
    scaled = (math.ceil(scale * height), math.ceil(scale * width))
    top, left = (round((size - wanted) / 2) for size, wanted in zip(scaled, bucket, strict=True))
    return Crop(scaled=scaled, size=bucket, top=top, left=left)


def crop_picture(picture: Image.Image, crop: Crop) -> Tensor:
    """An 8-bit RGB picture to float32 3 x H x W in [-1, 1]; Pillow's bilinear filter, which antialiases."""
    scaled = picture.resize((crop.scaled[1], crop.scaled[0]), Image.Resampling.BILINEAR)
    height, width = crop.size
    pixels = np.array(scaled.crop((crop.left, crop.top, crop.left + width, crop.top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1
