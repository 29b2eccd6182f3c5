"""A video file as pictures by the clock of the video that is made: 25 a second."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from PIL import Image

from src.errors import InputError
from src.media.file_type import describe_file, require_file
from src.media.image import check_size
from src.media.rates import FPS
from src.media.video.frame import display_transform, to_image
from src.media.video.stream import KINDS, DecodedFrame, decode_stream, scan_packets

T = TypeVar("T")


class VideoReader:
    """What a video shows at the times 0, 1/25, 2/25 ... seconds, by its own time stamps.

    Time 0 is the first picture; the last one holds after the end, and a picture holds over damaged ones. Two decoded
    pictures are kept and the rest is read as it is asked for, so an index below the one before costs decoding from
    the beginning again. `cuts` are the indices at which another scene begins.
    """

    def __init__(self, path: Path, *, max_seconds: float, name: str = "image") -> None:
        """Open the file, look through the packets of the first `max_seconds`, and decode the first picture.

        Raises InputError for what holds no video, is damaged or cut off, for unknown encodings, more than MAX_PIXELS,
        MAX_STREAMS or MAX_RATE (see reel.py), and for sizes that `read_picture` does not allow.
        """
        require_file(path, name=name)
        scan_packets(path, max_seconds=max_seconds, name=name)
        self.cuts: tuple[int, ...] = ()
        self._path, self._name = path, name
        self._moment = self._begin = Fraction(0)
        self._shots = decode_stream(path, name=name)
        self._shown, self._next = self._first(), self._advance()
        self._view = display_transform(self._shown.frame, self._shown.pixel_ratio)
        check_size(*self._view.upright, name=name)
        self.frame(0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every picture."""
        return self._view.upright

    def frame(self, index: int) -> Image.Image:
        """The picture at index / 25 seconds: 8-bit RGB, upright, with square pixels."""
        return self._seen(index, lambda frame: to_image(frame, self._view))

    def timestamp(self, index: int) -> Fraction:
        """The time stamp, in seconds, of the picture at index / 25 seconds."""
        self._go(index)
        return self._shown.seconds

    def thumbnail(self, index: int, *, width: int, height: int) -> VideoFrame:
        """The picture at index / 25 seconds in few pixels of RGB, neither turned nor in proportion."""
        options: dict[str, Any] = {"width": width, "height": height, "interpolation": Interpolation.AREA}
        return self._seen(index, lambda frame: frame.reformat(format="rgb24", **options))

    def close(self) -> None:
        """Let go of the file."""
        self._shots.close()

    def _seen(self, index: int, convert: Callable[[VideoFrame], T]) -> T:
        """What is shown at index / 25 seconds, converted."""
        self._go(index)
        try:
            return convert(self._shown.frame)
        except av.FFmpegError as error:
            raise self._unreadable(str(error.strerror)) from error

    def _go(self, index: int) -> None:
        """Read on to what is shown at index / 25 seconds."""
        moment = Fraction(index, FPS)
        if moment < self._moment:
            self._rewind()
        self._moment = moment
        while self._next is not None and self._next.seconds - self._begin <= moment:
            self._shown, self._next = self._next, self._advance()

    def _rewind(self) -> None:
        """Go back to the first picture."""
        self.close()
        self._shots = decode_stream(self._path, name=self._name)
        self._shown, self._next = self._first(), self._advance()

    def _first(self) -> DecodedFrame:
        """The first picture, which is due at time 0 unless its time stamp is below."""
        shot = self._advance()
        if shot is None:
            raise self._unreadable("no picture could be decoded")
        self._begin = max(shot.seconds, Fraction(0))
        return shot

    def _advance(self) -> DecodedFrame | None:
        return next(self._shots, None)

    def _unreadable(self, reason: str) -> InputError:
        return InputError(
            f"{self._name}: {describe_file(self._path)} is damaged or cut off ({reason}); {KINDS} is needed"
        )
