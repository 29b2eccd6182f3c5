"""Decode a video of any frame rate at the output's 25 frames per second."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from PIL import Image

from src.errors import InputError
from src.media.file_type import MediaFile
from src.media.image import check_size
from src.media.rates import FPS
from src.media.video.frame import display_transform, to_image
from src.media.video.stream import NEEDED, DecodedFrame, decode_stream

T = TypeVar("T")

# Audio and video may differ by this much before it is noticed.
TOLERANCE_SECONDS = Fraction(1, 50)


class FrameReader:
    """The frames that a video shows at 0, 1/25, 2/25 ... seconds, by its timestamps.

    Time 0 is the first frame, or before it if the audio begins more than MAX_LEAD_SECONDS earlier or the first frames
    are damaged: the first one is then shown until the next. The last frame is repeated after the end, and a damaged
    frame is replaced by the one before. Only two decoded frames are kept: reading a smaller index than before decodes
    from the start again.
    """

    def __init__(self, file: MediaFile, *, max_seconds: float) -> None:
        """Check the packets of the first `max_seconds` and decode the first frame.

        Raises InputError as `decode_stream` and `check_size` do.
        """
        self._file = file
        self._open(scan_seconds=max_seconds)
        self._transform = display_transform(self._current.frame, self._current.pixel_ratio)
        check_size(*self.size, name=file.name)
        self.frame_at(0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every frame."""
        return self._transform.display_size

    def frame_at(self, index: int) -> Image.Image:
        """The frame at index / 25 seconds: 8-bit RGB, upright, with square pixels."""
        return self._convert(index, lambda frame: to_image(frame, self._transform))

    def timestamp(self, index: int) -> Fraction:
        """The timestamp, in seconds, of the frame at index / 25 seconds."""
        self._seek(index)
        return self._current.seconds

    def thumbnail(self, index: int, *, width: int, height: int) -> VideoFrame:
        """The frame at index / 25 seconds as RGB of a small size, neither rotated nor in proportion."""
        options: dict[str, Any] = {"width": width, "height": height, "interpolation": Interpolation.AREA}
        return self._convert(index, lambda frame: frame.reformat(format="rgb24", **options))

    def close(self) -> None:
        """Close the file; reading on opens it again."""
        self._frames.close()

    def _open(self, scan_seconds: float | None = None) -> None:
        """Decode the first frame and the next one, and find the timestamp of time 0."""
        self._position = Fraction(0)
        self._frames = decode_stream(self._file, scan_seconds=scan_seconds)
        first = next(self._frames, None)
        if first is None:
            raise self._decode_error("no frame could be decoded")
        is_late = first.seconds - first.start > TOLERANCE_SECONDS
        self._start = first.start if is_late else max(first.seconds, Fraction(0))
        self._current: DecodedFrame = first
        self._next = next(self._frames, None)

    def _seek(self, index: int) -> None:
        """Decode up to the frame at index / 25 seconds."""
        position = Fraction(index, FPS)
        if position < self._position:
            self.close()
            self._open()
        self._position = position
        while self._next is not None and self._next.seconds - self._start <= position:
            self._current, self._next = self._next, next(self._frames, None)

    def _convert(self, index: int, convert: Callable[[VideoFrame], T]) -> T:
        """The frame at index / 25 seconds, converted."""
        self._seek(index)
        try:
            return convert(self._current.frame)
        except av.FFmpegError as error:
            raise self._decode_error(str(error.strerror)) from error

    def _decode_error(self, reason: str) -> InputError:
        return self._file.error(f"is damaged or cut off ({reason}); {NEEDED}")
