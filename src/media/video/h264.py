"""Encode frames as H.264: 4:2:0, limited range, BT.709, and tagged so.

H height, W width, 3 colors.
"""

from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

# x264's macroblock tree is not deterministic (seen where a row is not a multiple of eight blocks wide); the same seed
# must give the same file.
OPTIONS = {"crf": "17", "preset": "medium", "mbtree": "0"}


def add_video(container: OutputContainer, *, width: int, height: int, fps: int) -> VideoStream:
    """A video stream of the given size in pixels."""
    stream = container.add_stream("libx264", rate=fps, options=OPTIONS)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    return stream


def video_frame(frame_HWC: np.ndarray, index: int, fps: int) -> av.VideoFrame:
    """Frame `index` of a stream, from uint8 RGB."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
    )
    frame.colorspace = Colorspace.ITU709
    frame.color_primaries = ColorPrimaries.BT709
    frame.color_trc = ColorTrc.BT709
    frame.pts, frame.time_base = index, Fraction(1, fps)
    return frame
