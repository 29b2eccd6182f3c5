"""Re-encode a finished video at another size; its audio is copied.

H height, W width, 3 colors.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from src.media.video.h264 import add_video, video_frame
from src.media.video.writer import CONTAINER_OPTIONS

Size = tuple[int, int]
"""Width and height in pixels, both even."""


def resize_video(source: Path, target: Path, size: Size, check: Callable[[], None] = lambda: None) -> None:
    """Write the video of `source` to `target` at another size, center-cropped to its aspect ratio.

    `check` is called before each frame and may raise, to cancel.
    """
    with av.open(source) as reader, av.open(target, "w", format="mp4", options=CONTAINER_OPTIONS) as writer:
        fps = round(Fraction(reader.streams.video[0].average_rate or 0))
        writer.metadata.update({name: reader.metadata[name] for name in ("comment",) if name in reader.metadata})
        video = add_video(writer, width=size[0], height=size[1], fps=fps)
        source_audio = reader.streams.audio[0] if reader.streams.audio else None
        audio = None if source_audio is None else writer.add_stream_from_template(source_audio)
        for index, frame in enumerate(reader.decode(video=0)):
            check()
            resized_HWC = resize_and_crop(frame.to_ndarray(format="rgb24"), size)
            writer.mux(video.encode(video_frame(resized_HWC, index, fps)))
        writer.mux(video.encode(None))
        if source_audio is not None and audio is not None:
            reader.seek(0)
            for packet in reader.demux(source_audio):
                if packet.dts is not None:
                    packet.stream = audio
                    writer.mux(packet)


def resize_and_crop(frame_HWC: np.ndarray, size: Size) -> np.ndarray:
    """Scale a frame until it covers the size, and crop its center."""
    return np.asarray(ImageOps.fit(Image.fromarray(frame_HWC), size, Image.Resampling.LANCZOS))
