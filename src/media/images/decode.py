"""Decode an image file to parts of 8-bit RGB in sRGB, upright and opaque.

The parts are converted one after the other, so that the decoded image is the only large allocation.
"""

import mmap
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image, PngImagePlugin

from src.errors import InputError
from src.media.file_type import MediaFile
from src.media.image import MAX_PIXELS, TRANSPOSES, check_size
from src.media.images import tiff
from src.media.images.color import srgb_conversion
from src.media.images.depth import is_deep, to_8_bit, white_level
from src.media.images.jpeg import MAX_SCANS, count_scans
from src.media.sandbox import MAX_MEMORY
from src.serving.request_warnings import warn_caller

# Only formats that are recognized by content and decoded in this process (EPS would run Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")

# What Pillow raises on damaged files, depending on format and position of the damage.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
ORIENTATION_TAG = 0x0112
SIDEWAYS = (5, 6, 7, 8)
REVERSED = (3, 4, 7, 8)
"""Orientations of which the first row is the last row or column of the stored image."""
PART_PIXELS = 1 << 20
MAX_PROFILE_BYTES = 1 << 24
HEAD_BYTES = 1 << 16
"""The part of a file in which colors are looked for that Pillow does not read."""
# Smaller images fit into the memory, whatever their format.
MIN_LARGE_PIXELS = 20_000_000
TOO_LARGE = f"takes more than {MAX_MEMORY // 1_000_000} MB of memory to decode"

Size = tuple[int, int]


def decode(file: MediaFile, *, background_color: str, kinds: str) -> tuple[Size, Iterator[Image.Image]]:
    """Width and height of the upright image, and its parts from top to bottom.

    Raises InputError as `src.media.image.read_image` does, before the first part.
    """
    image = _open(file, kinds=kinds)
    check_size(*image.size, name=file.name)
    _check_scans(file)
    tiff.use_decoder(image)
    try:
        _warn_about_other_frames(image, name=file.name)
        image.load()
        white = white_level(image, name=file.name) if is_deep(image) else None
    except InputError:
        raise
    except MemoryError as error:
        raise file.error(f"{TOO_LARGE}; a smaller image is needed") from error
    except DECODE_ERRORS as error:
        too_large = f", or {TOO_LARGE}" if image.width * image.height > MIN_LARGE_PIXELS else ""
        raise file.error(f"is damaged or cut off ({error}){too_large}; {kinds} is needed") from error
    to_srgb = srgb_conversion(image, _read_head(file), name=file.name)
    orientation = _orientation(image)

    def convert(part: Image.Image) -> Image.Image:
        part = part if white is None else to_8_bit(part, white)
        part = part.convert("LA") if part.mode == "La" else part
        return _to_opaque(part if to_srgb is None else to_srgb(part), background_color)

    size = image.size[::-1] if orientation in SIDEWAYS else image.size
    return size, (convert(part) for part in _upright_parts(image, orientation))


def _open(file: MediaFile, *, kinds: str) -> Image.Image:
    """Read the header only."""
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES
    if file.is_heif:
        import pi_heif  # costs time, and is seldom needed

        pi_heif.register_heif_opener(thumbnails=False)
    Image.init()
    tiff.register()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file.path, formats=[each for each in FORMATS if each in Image.OPEN])
    except Image.DecompressionBombError as error:
        num_pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow does not report the size in any other way
        raise InputError(f"{file.name} has {num_pixels:,} pixels; at most {MAX_PIXELS:,} are allowed") from error
    except DECODE_ERRORS as error:
        too_large = f", or it {TOO_LARGE}" if file.head[8:12] == b"WEBP" else ""
        raise file.error(f"is not an image, or its beginning is damaged{too_large}; {kinds} is needed") from error


def _check_scans(file: MediaFile) -> None:
    with file.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if count_scans(data) > MAX_SCANS:
            raise file.error(f"has more than {MAX_SCANS} scans; save it anew")


def _read_head(file: MediaFile) -> bytes:
    with file.path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _warn_about_other_frames(image: Image.Image, *, name: str) -> None:
    """MPO, as cameras write it, holds other sizes of the same picture."""
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return
    what = {"TIFF": "has several pages; the first one", "HEIF": "holds several images; the main one"}
    warn_caller(f"{name} {what.get(image.format or '', 'is animated; its first frame')} is used")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF data is ignored, as browsers do."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except DECODE_ERRORS:
        return 1


def _upright_parts(image: Image.Image, orientation: int) -> Iterator[Image.Image]:
    """The upright image in rows of about PART_PIXELS."""
    width, height = image.size
    length, other = (width, height) if orientation in SIDEWAYS else (height, width)
    step = max(1, PART_PIXELS // other)
    for first in range(0, length, step):
        start, stop = first, min(first + step, length)
        if orientation in REVERSED:
            start, stop = length - stop, length - start
        box = (start, 0, stop, height) if orientation in SIDEWAYS else (0, start, width, stop)
        part = image.crop(box)
        yield part.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else part


def _to_opaque(image: Image.Image, background_color: str) -> Image.Image:
    """Convert to RGB, transparent pixels composited over a color."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background_color), rgba).convert("RGB")
