"""Decode an image file of any common format to 8-bit RGB, upright and opaque.

H height, W width.
"""

import re
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from src.errors import InputError
from src.media.file_type import MediaFile

MAX_PIXELS = 80_000_000
MIN_SIDE = 32
# A narrow strip is scaled until its short side fills the video, and its long side then exhausts the memory.
MAX_RATIO = 16
# Only formats that are recognized by content and decoded in this process (EPS would run Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
KINDS = "a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000 image"

# What Pillow raises on damaged files, depending on format and position of the damage.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

ORIENTATION_TAG = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of 256; at least this bright is white in a mask.
MASK_THRESHOLD = 128
# The white level of samples deeper than 8 bits is the smallest of these that is not exceeded.
WHITE_LEVELS = {"I": (65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}


def read_image(file: MediaFile, *, background_color: str = "white", kinds: str = KINDS) -> Image.Image:
    """Decode to 8-bit RGB: upright by EXIF, transparency over `background_color`, the first frame of an animation.

    Raises InputError for a file that is not an image or is damaged, with `kinds` as what is needed; and as `check_size`
    does, from the header, before any pixel is decoded.
    """
    with _open(file, kinds=kinds) as image:
        check_size(*image.size, name=file.name)
        try:
            image.load()
            return _to_upright(_to_opaque(_to_8_bit(image, name=file.name), background_color), _orientation(image))
        except InputError:
            raise
        except DECODE_ERRORS as error:
            raise file.error(f"is damaged or cut off ({error}); {kinds} is needed") from error


def read_mask(file: MediaFile, *, height: int, width: int) -> np.ndarray:
    """Where an image is white (at least half bright, and not transparent): bool (H, W) of the given size.

    Raises InputError as `read_image` does, for another aspect ratio than height x width, and without a white pixel.
    """
    mask = read_image(file, background_color="black")
    if abs(mask.width * height - mask.height * width) > max(height, width):  # one pixel of the mask
        raise InputError(
            f"{file.name} has {mask.width} x {mask.height} pixels; the image's {width} x {height} are needed, or the "
            "same shape at another size"
        )
    resized = mask.convert("L").resize((width, height), Image.Resampling.NEAREST)
    mask_HW = np.asarray(resized) >= MASK_THRESHOLD
    if not mask_HW.any():
        raise InputError(f"{file.name} has no white pixel; white is needed where the person is")
    return mask_HW


def check_size(width: int, height: int, *, name: str) -> None:
    """Raises InputError for more than MAX_PIXELS, a side below MIN_SIDE, or an aspect ratio beyond MAX_RATIO."""
    size = f"{name} has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise InputError(f"{size}, {width * height:,} in all; at most {MAX_PIXELS:,} are allowed")
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{size}; each side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(f"{size}; the longer side may be at most {MAX_RATIO} times the shorter")


def _open(file: MediaFile, *, kinds: str) -> Image.Image:
    """Read the header only."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file.path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        num_pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow does not report the size in any other way
        raise InputError(f"{file.name} has {num_pixels:,} pixels; at most {MAX_PIXELS:,} are allowed") from error
    except DECODE_ERRORS as error:
        raise file.error(f"is not an image, or its beginning is damaged; {kinds} is needed") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF data is ignored, as browsers do."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except DECODE_ERRORS:
        return 1


def _to_upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def _to_8_bit(image: Image.Image, *, name: str) -> Image.Image:
    """Scale grayscale values of more than 8 bits to 0..255; other modes are unchanged."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    gray_HW = np.asarray(image).astype(np.float64)
    if not np.isfinite(gray_HW).all():
        raise InputError(f"{name} has NaN or infinite pixel values; finite ones are needed")
    maximum = float(gray_HW.max())
    white_levels = WHITE_LEVELS.get(image.mode, (65535.0,))
    white = next((level for level in white_levels if maximum <= level), maximum)
    return Image.fromarray(np.rint(gray_HW.clip(0, white) * (255 / white)).astype(np.uint8))


def _to_opaque(image: Image.Image, background_color: str) -> Image.Image:
    """Convert to RGB, transparent pixels composited over a color."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background_color), rgba).convert("RGB")
