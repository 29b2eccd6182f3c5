"""A finished video in another frame rate or size, its duration and sound kept. The frames are encoded once more.

F frames, H height, W width, 3 colours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from PIL import Image, ImageOps

from src.media.h264 import add_video, video_frame
from src.media.movie import CONTAINER_OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Frames a second, and pixels, both even; None keeps what is there."""

    fps: int | None = None
    size: tuple[int, int] | None = None


def finish(source: Path, target: Path, shape: Shape) -> int:
    """Write the video of `source` in another shape to `target`; its number of frames.

    Each frame shows what the source shows in the middle of its time; a smaller or wider size cuts what it has no
    room for. Packets of sound are copied as they are.
    """
    with av.open(source) as old, av.open(target, "w", format="mp4", options=CONTAINER_OPTIONS) as new:
        video = old.streams.video[0]
        rate = Fraction(video.average_rate or 0)
        fps = shape.fps or round(rate)
        width, height = shape.size or (video.width, video.height)
        new.metadata.update({name: old.metadata[name] for name in ("comment",) if name in old.metadata})
        encoder = add_video(new, width=width, height=height, fps=fps)
        sound = old.streams.audio[0] if old.streams.audio else None
        copy = None if sound is None else new.add_stream_from_template(sound)
        count = 0
        for picture_HWC in resampled(pictures(old), rate, fps):
            new.mux(encoder.encode(video_frame(fitted(picture_HWC, width, height), count, fps)))
            count += 1
        new.mux(encoder.encode(None))
        if sound is not None and copy is not None:
            old.seek(0)
            for packet in old.demux(sound):
                if packet.dts is not None:
                    packet.stream = copy
                    new.mux(packet)
    return count


def pictures(container: InputContainer) -> Iterator[np.ndarray]:
    """Every frame as uint8 RGB, H x W x 3."""
    for frame in container.decode(video=0):
        yield frame.to_ndarray(format="rgb24")


def resampled(pictures: Iterator[np.ndarray], rate: Fraction, fps: int) -> Iterator[np.ndarray]:
    """The same time in `fps` frames a second instead of `rate`: frames left out, or shown again."""
    shown, last = 0, None
    for index, picture_HWC in enumerate(pictures):
        while (shown + Fraction(1, 2)) / fps < (index + 1) / rate:
            yield picture_HWC
            shown += 1
        last = picture_HWC
    if shown == 0 and last is not None:
        yield last


def fitted(picture_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture scaled until it fills the size, its middle kept."""
    if picture_HWC.shape[:2] == (height, width):
        return picture_HWC
    return np.asarray(ImageOps.fit(Image.fromarray(picture_HWC), (width, height), Image.Resampling.LANCZOS))
