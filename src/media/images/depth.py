"""Gray images of more than 8 bits a pixel, scaled to 8.

H height, W width.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from src.errors import InputError

# The white level of 32-bit samples is the smallest of these that is not exceeded.
WHITE_LEVELS = {"I": (65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}
WHITE_IS_ZERO = 0
NUM_ROWS = 64


def is_deep(image: Image.Image) -> bool:
    """Whether the image is gray with more than 8 bits."""
    return image.mode in WHITE_LEVELS or image.mode.startswith("I;16")


def white_level(image: Image.Image, *, name: str) -> float:
    """The value of a deep image that is white; negative where white is stored as 0, and black as this value.

    Raises InputError for pixels that are NaN or infinite.
    """
    if image.mode not in WHITE_LEVELS:
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        white = 2.0 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
        return -white if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO else white
    if image.mode == "F" and not all(np.isfinite(np.asarray(rows)).all() for rows in _iter_rows(image)):
        raise InputError(f"{name} has NaN or infinite pixel values; finite ones are needed")
    _, maximum = image.getextrema()
    assert isinstance(maximum, (int, float))
    return next((level for level in WHITE_LEVELS[image.mode] if maximum <= level), float(maximum))


def to_8_bit(image: Image.Image, white: float) -> Image.Image:
    """Scale a deep image from 0..white to 0..255; a negative `white` inverts it."""
    gray_HW = np.asarray(image).astype(np.float64).clip(0, abs(white)) * (255 / abs(white))
    pixels_HW = np.rint(gray_HW).astype(np.uint8)
    return Image.fromarray(pixels_HW if white > 0 else 255 - pixels_HW)


def _iter_rows(image: Image.Image) -> Iterator[Image.Image]:
    for top in range(0, image.height, NUM_ROWS):
        yield image.crop((0, top, image.width, min(top + NUM_ROWS, image.height)))
