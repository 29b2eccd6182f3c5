"""Read an image file of any common format as 8-bit RGB in sRGB, upright and opaque.

H height, W width.
"""

import json

import numpy as np
from PIL import Image

from src.errors import InputError
from src.media.file_type import MediaFile
from src.media.sandbox import Sandbox, SandboxError
from src.serving.request_warnings import warn_caller

MAX_PIXELS = 80_000_000
MIN_SIDE = 32
# A narrow strip is scaled until its short side fills the video, and its long side then exhausts the memory.
MAX_RATIO = 16
KINDS = "a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG 2000 image"
# By EXIF orientation.
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
PART_BYTES = 1 << 22


def read_image(file: MediaFile, *, background_color: str = "white", kinds: str = KINDS) -> Image.Image:
    """Decode to 8-bit RGB: upright by EXIF, in sRGB, transparency over `background_color`, the first frame.

    A process of its own decodes, within limits of processor time and memory. Warns the caller about what is ignored
    (a damaged color profile, the other frames of an animation).
    Raises InputError for a file that is not an image, is damaged or exceeds a limit, with `kinds` as what is needed,
    and as `check_size` does, from the header, before any pixel is decoded; CancelledError within a second of a cancel.
    """
    request = {
        "path": str(file.path.absolute()),
        "name": file.name,
        "background_color": background_color,
        "kinds": kinds,
    }
    try:
        with Sandbox("src.media.images.worker", json.dumps(request)) as worker:
            header = json.loads(worker.read_line())
            for message in header["warnings"]:
                warn_caller(message)
            if "error" in header:
                raise InputError(header["error"])
            return _read_pixels(worker, *header["size"])
    except SandboxError as error:
        raise file.error(f"{error}; {kinds} is needed") from error


def _read_pixels(worker: Sandbox, width: int, height: int) -> Image.Image:
    """In parts, because a second copy of a large image takes hundreds of megabytes."""
    image = Image.new("RGB", (width, height))
    num_rows = max(1, PART_BYTES // (3 * width))
    for top in range(0, height, num_rows):
        size = (width, min(num_rows, height - top))
        image.paste(Image.frombytes("RGB", size, worker.read(3 * size[0] * size[1])), (0, top))
    return image


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
