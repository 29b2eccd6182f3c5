"""Videos whose pictures carry their own number, made on the spot."""

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
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (200, 200, 200)}


def drawing(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A colour in each quarter, from the left above: red, green, blue, grey; in the middle the number's bits."""
    pixels_HWC = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for place, color in enumerate(CORNERS.values()):
        down, right = divmod(place, 2)
        pixels_HWC[32 * down : 32 * (down + 1), 64 * right : 64 * (right + 1)] = color
    for bit in range(BITS):
        pixels_HWC[24:40, 16 * bit : 16 * (bit + 1)] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels_HWC).resize(size, Image.Resampling.NEAREST)


def number_of(picture: Image.Image) -> int:
    """What `drawing` was given."""
    gray_HW = np.asarray(picture.convert("L").resize((WIDTH, HEIGHT)))
    return sum(int(gray_HW[28:36, 16 * bit + 4 : 16 * bit + 12].mean() > 127) << bit for bit in range(BITS))


def write_film(
    path: Path,
    *,
    codec: str = "libx264",
    form: str | None = None,
    times: Iterable[float | Fraction] = TIMES,
    pictures: list[Image.Image] | None = None,
    **stream_options: Any,
) -> Path:
    """A video with a picture at each of the `times` in seconds; `rotation` in degrees, `pixel_ratio`, `pix_fmt`."""
    times = list(times)
    pictures = pictures or [drawing(number) for number in range(len(times))]
    base = Fraction(1, 600)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = stream_options.get("pix_fmt", "yuv420p")
        if "rotation" in stream_options:
            stream.set_display_rotation(*stream_options["rotation"])
        if "pixel_ratio" in stream_options:
            stream.codec_context.sample_aspect_ratio = stream_options["pixel_ratio"]
        stream.codec_context.time_base = base
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
