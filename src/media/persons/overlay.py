"""Draw person masks and names on a frame.

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
# Smaller frames are enlarged by an integer factor, so that the names are legible.
MIN_SIDE = 360
LINES_PER_FRAME = 22
MARGIN = 4


def draw_overlay(frame: Image.Image, masks: Mapping[str, np.ndarray]) -> Image.Image:
    """The frame with a tint, an outline and a name for each mask; bool arrays of any size, stretched to the frame."""
    scale = math.ceil(MIN_SIDE / min(frame.size))
    image = frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.BICUBIC)
    resized = [_resize(mask_HW, image.size) for mask_HW in masks.values()]
    for mask_HW, color in zip(resized, COLORS, strict=False):
        image = _tint(image, mask_HW, color)
    occupied: list[BBox] = []
    for name, mask_HW, color in zip(masks, resized, COLORS, strict=False):
        occupied.append(_draw_name(image, name, mask_HW, color, occupied))
    return image


def _resize(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask_HW).resize(size, Image.Resampling.NEAREST))


def _tint(image: Image.Image, mask_HW: np.ndarray, color: Color) -> Image.Image:
    """Blend a color into the mask, fully at its outline."""
    inner_HW = mask_HW.copy()
    for axis in (0, 1):
        for offset in (-2, 2):
            inner_HW &= _shift(mask_HW, offset, axis)
    alpha_HW = np.where(mask_HW & ~inner_HW, 1.0, TINT * mask_HW)
    pixels_HWC = np.asarray(image, np.float64)
    pixels_HWC = pixels_HWC + alpha_HW[..., None] * (np.array(color) - pixels_HWC)
    return Image.fromarray(np.rint(pixels_HWC).astype(np.uint8))


def _shift(mask_HW: np.ndarray, offset: int, axis: int) -> np.ndarray:
    """The mask shifted by `offset` pixels, filled with False."""
    shifted_HW = np.roll(mask_HW, offset, axis)
    outside = slice(0, offset) if offset > 0 else slice(offset, None)
    shifted_HW[(outside, slice(None)) if axis == 0 else (slice(None), outside)] = False
    return shifted_HW


def _draw_name(image: Image.Image, name: str, mask_HW: np.ndarray, color: Color, occupied: list[BBox]) -> BBox:
    """Draw a label at the top of the mask, inside the frame and below `occupied` boxes. Returns its box."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(image.height / LINES_PER_FRAME)
    left, top, right, bottom = draw.textbbox((0, 0), name, font=font)
    width, height = right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
    rows, columns = np.nonzero(mask_HW)
    x = float(np.clip(columns.mean() - width / 2, 0, max(0, image.width - width)))
    y = float(min(rows.min() + MARGIN, max(0, image.height - height)))
    while any(_intersects((x, y, x + width, y + height), box) for box in occupied):
        y += height + MARGIN
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + MARGIN - left, y + MARGIN - top), name, fill="white", font=font)
    return x, y, x + width, y + height


def _intersects(a: BBox, b: BBox) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
