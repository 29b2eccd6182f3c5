"""A picture of who is where: everybody's region and name drawn on a frame.

H x W of the frame.
"""

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
BBox = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

COLORS: tuple[Color, ...] = ((230, 75, 53), (0, 120, 215), (240, 180, 0))
TINT = 0.35
# Smaller frames are enlarged, in whole steps, so that names can be read.
MIN_SIDE = 360
LETTER_SHARE = 22
MARGIN = 4


def draw_overlay(frame: Image.Image, regions: Mapping[str, np.ndarray]) -> Image.Image:
    """The frame with a tint, an outline and a name for each region, a bool mask of a grid that covers the frame."""
    scale = math.ceil(MIN_SIDE / min(frame.size))
    picture = frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.BICUBIC)
    masks = [_at_size(mask_HW, picture.size) for mask_HW in regions.values()]
    for mask_HW, color in zip(masks, COLORS, strict=False):
        picture = _tinted(picture, mask_HW, color)
    taken: list[BBox] = []
    for name, mask_HW, color in zip(regions, masks, COLORS, strict=False):
        taken.append(_write(picture, name, mask_HW, color, taken))
    return picture


def _at_size(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask_HW).resize(size, Image.Resampling.NEAREST))


def _tinted(picture: Image.Image, mask_HW: np.ndarray, color: Color) -> Image.Image:
    """The region in its colour, more so at its edge."""
    inner_HW = mask_HW.copy()
    for axis in (0, 1):
        for way in (-2, 2):
            inner_HW &= _shifted(mask_HW, way, axis)
    strength_HW = np.where(mask_HW & ~inner_HW, 1.0, TINT * mask_HW)
    pixels_HWC = np.asarray(picture, np.float64)
    pixels_HWC = pixels_HWC + strength_HW[..., None] * (np.array(color) - pixels_HWC)
    return Image.fromarray(np.rint(pixels_HWC).astype(np.uint8))


def _shifted(mask_HW: np.ndarray, way: int, axis: int) -> np.ndarray:
    """The mask moved by some pixels, with nothing coming in from outside."""
    moved_HW = np.roll(mask_HW, way, axis)
    outside = slice(0, way) if way > 0 else slice(way, None)
    moved_HW[(outside, slice(None)) if axis == 0 else (slice(None), outside)] = False
    return moved_HW


def _write(picture: Image.Image, name: str, mask_HW: np.ndarray, color: Color, taken: list[BBox]) -> BBox:
    """The name on its colour, at the top of the region and inside the frame, below what is written there already."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(picture.height / LETTER_SHARE)
    left, top, right, bottom = draw.textbbox((0, 0), name, font=font)
    width, height = right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
    rows, columns = np.nonzero(mask_HW)
    x = float(np.clip(columns.mean() - width / 2, 0, max(0, picture.width - width)))
    y = float(min(rows.min() + MARGIN, max(0, picture.height - height)))
    while any(_overlap((x, y, x + width, y + height), other) for other in taken):
        y += height + MARGIN
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + MARGIN - left, y + MARGIN - top), name, fill="white", font=font)
    return x, y, x + width, y + height


def _overlap(one: BBox, other: BBox) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
