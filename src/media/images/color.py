"""Convert the colors of an image to sRGB by its ICC profile, or by the color primaries that its file codes."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from src.media.images.coded_color import coded_profile, embedded_profile
from src.serving.request_warnings import warn_caller

Conversion = Callable[[Image.Image], Image.Image]

# Color spaces of profiles, and the Pillow modes that they describe.
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
MAX_SRGB_DIFFERENCE = 2
"""Of 255: a profile that changes no color by more counts as sRGB; the image is left as it is."""
GRID_STEPS = 17


def srgb_conversion(image: Image.Image, head: bytes, *, name: str) -> Conversion | None:
    """The conversion of parts of an image to RGB or RGBA in sRGB; None if the image is in sRGB already.

    `head` is the beginning of the file. A profile that is damaged or made for another kind of image is ignored, and the
    caller is warned.
    """
    try:
        profile = _read_profile(image, head, name=name)
        return None if profile is None else _conversion(image, profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warn_caller(f"{name}: its color profile is damaged, or made for other images, and is ignored ({error})")
        return None


def _read_profile(image: Image.Image, head: bytes, *, name: str) -> ImageCms.ImageCmsProfile | None:
    coded = coded_profile(image, head, name=name)
    if coded is not None:
        return ImageCms.ImageCmsProfile(io.BytesIO(coded))
    if "icc_profile" not in image.info:
        embedded = embedded_profile(image, head)
    elif not (embedded := image.info["icc_profile"]):
        raise ValueError("it cannot be unpacked")
    return None if embedded is None else ImageCms.ImageCmsProfile(io.BytesIO(embedded))


def _conversion(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Conversion | None:
    """Raises ValueError for a profile of another color space, PyCMSError for one that is damaged."""
    space = profile.profile.xcolor_space.strip()
    is_gray = image.mode in GRAY_MODES or image.mode.startswith("I;16")
    mode = image.mode if image.mode in ("CMYK", "LAB") else "L" if is_gray else "RGB"
    if is_gray and space == "RGB":
        mode = "RGB"
    if MODES.get(space) != mode:
        raise ValueError(f"it is for {space}, and the image has mode {image.mode}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode in ("L", "RGB") and _is_srgb(transform, mode):
        return None
    return partial(_convert, transform, mode)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the transform changes no color of a regular grid."""
    levels = np.linspace(0, 255, 256 if mode == "L" else GRID_STEPS).round().astype(np.uint8)
    axes = np.meshgrid(*[levels] * (1 if mode == "L" else 3))
    grid = Image.fromarray(np.stack(axes, -1).reshape(1, -1, len(axes)).squeeze(-1 if mode == "L" else ()))
    colors = [np.asarray(each).astype(int) for each in (grid.convert("RGB"), ImageCms.applyTransform(grid, transform))]
    return bool(np.abs(colors[0] - colors[1]).max() <= MAX_SRGB_DIFFERENCE)


def _convert(transform: ImageCms.ImageCmsTransform, mode: str, part: Image.Image) -> Image.Image:
    """RGB, or RGBA for an image with transparency."""
    if not part.has_transparency_data:
        return _apply(transform, part.convert(mode))
    rgba = part.convert("RGBA")
    rgb = _apply(transform, rgba.convert("RGB").convert(mode))
    rgb.putalpha(rgba.getchannel("A"))
    return rgb


def _apply(transform: ImageCms.ImageCmsTransform, part: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(part, transform)
    assert converted is not None
    return converted
