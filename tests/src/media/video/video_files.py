"""Videos whose frames show their own number, generated at run time."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 128, 64
BITS = 8
TIMES = tuple(number / 25 for number in range(12))
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "gray": (200, 200, 200)}


def drawing(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Quarters in red, green, blue and gray, row by row, and the bits of the number in the middle."""
    pixels_HWC = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for quarter, color in enumerate(CORNERS.values()):
        row, column = divmod(quarter, 2)
        pixels_HWC[32 * row : 32 * (row + 1), 64 * column : 64 * (column + 1)] = color
    for bit in range(BITS):
        pixels_HWC[24:40, 16 * bit : 16 * (bit + 1)] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels_HWC).resize(size, Image.Resampling.NEAREST)


def number_of(image: Image.Image) -> int:
    """The number that `drawing` encoded."""
    gray_HW = np.asarray(image.convert("L").resize((WIDTH, HEIGHT)))
    return sum(int(gray_HW[28:36, 16 * bit + 4 : 16 * bit + 12].mean() > 127) << bit for bit in range(BITS))


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    form: str | None = None,
    times: Iterable[float | Fraction] = TIMES,
    images: list[Image.Image] | None = None,
    **stream_options: Any,
) -> Path:
    """Write a video with a frame at each of the `times` in seconds; `rotation` in degrees, `pixel_ratio`,
    `pix_fmt`, `bit_rate`, and the time base `base`."""
    times = list(times)
    images = images or [drawing(number) for number in range(len(times))]
    base = stream_options.get("base", Fraction(1, 600))
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = stream_options.get("pix_fmt", "yuv420p")
        if "bit_rate" in stream_options:
            stream.bit_rate = stream_options["bit_rate"]
        if "rotation" in stream_options:
            stream.set_display_rotation(*stream_options["rotation"])
        if "pixel_ratio" in stream_options:
            stream.codec_context.sample_aspect_ratio = stream_options["pixel_ratio"]
        stream.codec_context.time_base = base
        for time, image in zip(times, images, strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
