"""One decoded picture of a video as 8-bit RGB: upright, with square pixels, in the colours it was made in."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation
from PIL import Image

# The display matrix's signs a, b, c, d (x' = a x + c y, y' = b x + d y) and what puts the picture upright.
UPRIGHT = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
ONE = 1 << 16
UNSPECIFIED = 2
# Colour matrices and ranges, by their numbers in ITU-T H.273, that the conversion knows.
MATRICES = (0, 1, UNSPECIFIED, 4, 5, 6, 7, 9, 10)
RANGES = (0, 1, 2)
# Transfer curves of high dynamic range, which are brought to those of ordinary pictures.
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# Videos of at least so many lines that do not name their colours have those of BT.709, as players assume.
HD_LINES = 720


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayTransform:
    """How every picture of a video is shown: its size before it is turned, and how it is turned."""

    width: int
    height: int
    turn: Image.Transpose | None

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as seen."""
        sideways = self.turn is not None and self.turn in (
            Image.Transpose.ROTATE_90,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.TRANSVERSE,
        )
        return (self.height, self.width) if sideways else (self.width, self.height)


def sanitize_color_tags(frame: VideoFrame) -> VideoFrame:
    """The frame, with colour tags that nobody knows taken away; FFmpeg refuses to convert it otherwise."""
    if frame.colorspace not in MATRICES:
        frame.colorspace = UNSPECIFIED
    if frame.color_range not in RANGES:
        frame.color_range = 0
    return frame


def display_transform(frame: VideoFrame, pixel_ratio: Fraction) -> DisplayTransform:
    """How a video with this first picture is seen; the ratio is that of its pixels' width to their height."""
    entries: Any = frame.side_data  # PyAV's own stubs call it a dictionary
    matrix = next((bytes(entry) for entry in entries if entry.type == Type.DISPLAYMATRIX), None)
    turn = None
    if matrix is not None:
        a, b, _, c, d, *_ = struct.unpack("9i", matrix)
        turn = UPRIGHT.get(tuple(round(x / ONE) for x in (a, b, c, d)))
    return DisplayTransform(width=max(1, round(frame.width * pixel_ratio)), height=frame.height, turn=turn)


def to_image(frame: VideoFrame, view: DisplayTransform) -> Image.Image:
    """The picture as it is seen; one of another size than the first is scaled to its size."""
    untold = frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES
    bright = frame.color_trc in HDR
    picture = frame.reformat(
        format="rgb24",
        width=view.width,
        height=view.height,
        src_colorspace=Colorspace.ITU709 if untold else None,
        dst_color_trc=ColorTrc.IEC61966_2_1 if bright else None,
        dst_color_primaries=ColorPrimaries.BT709 if bright else None,
        interpolation=Interpolation.BICUBIC,
    ).to_image()
    return picture if view.turn is None else picture.transpose(view.turn)
