"""Convert a decoded frame to 8-bit RGB: upright, with square pixels, in its source's colors."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation
from PIL import Image

# The signs of a, b, c, d in the display matrix (x' = a x + c y, y' = b x + d y) to the transpose that it asks for.
TRANSPOSES = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
SIDEWAYS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
FIXED_POINT_ONE = 1 << 16
UNSPECIFIED = 2
# Matrix coefficients and color ranges, as numbered in ITU-T H.273, that swscale supports.
SUPPORTED_MATRICES = (0, 1, UNSPECIFIED, 4, 5, 6, 7, 9, 10)
SUPPORTED_RANGES = (0, 1, 2)
# HDR transfer characteristics, which are converted to sRGB.
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# Untagged videos of at least this height are BT.709, as players assume.
MIN_HD_HEIGHT = 720


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayTransform:
    """How every frame of a video is displayed: scaled to `width` x `height`, then rotated or flipped."""

    width: int
    height: int
    rotation: Image.Transpose | None

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height after the rotation."""
        return (self.height, self.width) if self.rotation in SIDEWAYS else (self.width, self.height)


def sanitize_color_tags(frame: VideoFrame) -> VideoFrame:
    """The frame, without color tags that FFmpeg refuses to convert."""
    if frame.colorspace not in SUPPORTED_MATRICES:
        frame.colorspace = UNSPECIFIED
    if frame.color_range not in SUPPORTED_RANGES:
        frame.color_range = 0
    return frame


def display_transform(frame: VideoFrame, pixel_ratio: Fraction) -> DisplayTransform:
    """The transform of a video from its first frame; `pixel_ratio` is the sample aspect ratio, width to height."""
    side_data: Any = frame.side_data  # PyAV's stubs call it a dictionary
    matrix = next((bytes(entry) for entry in side_data if entry.type == Type.DISPLAYMATRIX), None)
    rotation = None
    if matrix is not None:
        a, b, _, c, d, *_ = struct.unpack("9i", matrix)
        rotation = TRANSPOSES.get(tuple(round(x / FIXED_POINT_ONE) for x in (a, b, c, d)))
    return DisplayTransform(width=max(1, round(frame.width * pixel_ratio)), height=frame.height, rotation=rotation)


def to_image(frame: VideoFrame, transform: DisplayTransform) -> Image.Image:
    """The frame as displayed; a frame of another size than the first is scaled to that size."""
    is_untagged_hd = frame.colorspace == UNSPECIFIED and frame.height >= MIN_HD_HEIGHT
    is_hdr = frame.color_trc in HDR
    image = frame.reformat(
        format="rgb24",
        width=transform.width,
        height=transform.height,
        src_colorspace=Colorspace.ITU709 if is_untagged_hd else None,
        dst_color_trc=ColorTrc.IEC61966_2_1 if is_hdr else None,
        dst_color_primaries=ColorPrimaries.BT709 if is_hdr else None,
        interpolation=Interpolation.BICUBIC,
    ).to_image()
    return image if transform.rotation is None else image.transpose(transform.rotation)
