"""A finished video in another size, its frames and sound kept. The frames are encoded once more.

H height, W width, 3 colours.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from src.media.video.h264 import add_video, video_frame
from src.media.video.writer import CONTAINER_OPTIONS
from src.serving.cancellation import raise_if_cancelled

Size = tuple[int, int]
"""Width and height in pixels, both even."""


def resize_video(source: Path, target: Path, size: Size) -> None:
    """Write the video of `source` in another size to `target`; what a smaller or wider one has no room for is cut.

    Packets of sound are copied as they are. StoppedError when the request is to end.
    """
    with av.open(source) as old, av.open(target, "w", format="mp4", options=CONTAINER_OPTIONS) as new:
        video = old.streams.video[0]
        fps = round(Fraction(video.average_rate or 0))
        new.metadata.update({name: old.metadata[name] for name in ("comment",) if name in old.metadata})
        encoder = add_video(new, width=size[0], height=size[1], fps=fps)
        sound = old.streams.audio[0] if old.streams.audio else None
        copy = None if sound is None else new.add_stream_from_template(sound)
        for count, frame in enumerate(old.decode(video=0)):
            raise_if_cancelled()
            new.mux(encoder.encode(video_frame(resize_and_crop(frame.to_ndarray(format="rgb24"), size), count, fps)))
        new.mux(encoder.encode(None))
        if sound is not None and copy is not None:
            old.seek(0)
            for packet in old.demux(sound):
                if packet.dts is not None:
                    packet.stream = copy
                    new.mux(packet)


def resize_and_crop(picture_HWC: np.ndarray, size: Size) -> np.ndarray:
    """A picture scaled until it fills the size, its middle kept."""
    return np.asarray(ImageOps.fit(Image.fromarray(picture_HWC), size, Image.Resampling.LANCZOS))
