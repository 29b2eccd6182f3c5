"""A picture file of any common kind becomes 8-bit RGB, upright and opaque."""

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from src.errors import InputError
from src.media.file_type import describe_file, require_file

MAX_PIXELS = 80_000_000
MIN_SIDE = 32
# A strip would be scaled until its short side fills the video, and its long side then fills the memory.
MAX_RATIO = 16
# Only formats that are recognised by their content and decoded in this process (EPS would start a program).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
KINDS = "a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000 picture"

# What Pillow raises on damaged files, depending on the format and the place of the damage.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of 256; what a mask counts as white.
MASK_THRESHOLD = 128
# The range of samples deeper than 8 bits is the smallest of these that holds the brightest one.
HIGH_BIT_RANGES = {"I": (65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}


def read_image(path: Path, *, name: str = "image", ground: str = "white", kinds: str = KINDS) -> Image.Image:
    """Read a picture as 8-bit RGB: upright by its EXIF, transparency on the ground, the first frame of several.

    Raises InputError, which says that one of the `kinds` is needed, for what is no picture and for a damaged one;
    and for one of more than MAX_PIXELS (judged by its header, before anything is decoded), one with a side below
    MIN_SIDE pixels and one that is more than MAX_RATIO times as long as wide.
    """
    require_file(path, name=name)
    with _open(path, name=name, kinds=kinds) as image:
        check_size(*image.size, name=name)
        try:
            image.load()
            return _upright(_opaque(_eight_bit(image, name=name), ground), _orientation(image))
        except InputError:
            raise
        except DECODE_ERRORS as error:
            reason = f"is damaged or cut off ({error})"
            raise InputError(f"{name}: {describe_file(path)} {reason}; {kinds} is needed") from error


def read_mask(path: Path, *, name: str, height: int, width: int) -> np.ndarray:
    """Where a picture is white (at least half bright, and not transparent), as bool H x W of the given size.

    Raises InputError as `read_image` does, for another shape than height x width, and for one without any white.
    """
    mask = read_image(path, name=name, ground="black")
    if abs(mask.width * height - mask.height * width) > max(height, width):  # one pixel of the mask
        raise InputError(
            f"{name} has {mask.width} x {mask.height} pixels; the picture's {width} x {height} are needed, or the same "
            "shape at another size"
        )
    scaled = mask.convert("L").resize((width, height), Image.Resampling.NEAREST)
    mask_HW = np.asarray(scaled) >= MASK_THRESHOLD
    if not mask_HW.any():
        raise InputError(f"{name} has no white pixel; white is needed where the person is")
    return mask_HW


def _open(path: Path, *, name: str, kinds: str) -> Image.Image:
    """Read the header only."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])  # all that Pillow tells of a picture it refuses
        raise InputError(f"{name} has {pixels:,} pixels; at most {MAX_PIXELS:,} are allowed") from error
    except DECODE_ERRORS as error:
        raise InputError(
            f"{name}: {describe_file(path)} is not a picture, or its beginning is damaged; {kinds} is needed"
        ) from error


def check_size(width: int, height: int, *, name: str) -> None:
    """Raises InputError for more pixels than MAX_PIXELS, a side below MIN_SIDE, and a shape beyond MAX_RATIO."""
    size = f"{name} has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise InputError(f"{size}, {width * height:,} in all; at most {MAX_PIXELS:,} are allowed")
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{size}; each side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(f"{size}; the longer side may be at most {MAX_RATIO} times the shorter")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; a damaged EXIF block is ignored, as browsers do."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except DECODE_ERRORS:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _eight_bit(image: Image.Image, *, name: str) -> Image.Image:
    """Bring grey values of more than 8 bits to 0..255; other modes pass."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    gray_HW = np.asarray(image).astype(np.float64)
    if not np.isfinite(gray_HW).all():
        raise InputError(f"{name} holds NaN or infinite grey values; finite ones are needed")
    brightest = float(gray_HW.max())
    ranges = HIGH_BIT_RANGES.get(image.mode, (65535.0,))
    white = next((white for white in ranges if brightest <= white), brightest)
    return Image.fromarray(np.rint(gray_HW.clip(0, white) * (255 / white)).astype(np.uint8))


def _opaque(image: Image.Image, ground: str) -> Image.Image:
    """Convert to RGB, transparent parts over a colour."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba).convert("RGB")
