"""Frames and a soundtrack become an MP4, encoded once, while the frames come.

F frames, H height, W width, 3 colours.
"""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import av
import numpy as np

from src.media.audio.aac import add_audio, audio_frames, encodable
from src.media.audio.audio import Audio, pad_or_trim
from src.media.rates import FPS, frames_at, source_frame
from src.media.video.h264 import add_video, video_frame

# The index goes to the front, so that players start before the whole file is there.
CONTAINER_OPTIONS = {"movflags": "+faststart"}


class VideoWriter:
    """H.264 and AAC into `path`: exactly `num_frames` frames of FPS, the soundtrack trimmed or padded to their length.

    A file of another rate repeats frames or leaves some out, and lasts as long to the nearest frame; its sound stays.
    A context manager. On a clean exit the file is complete; after any exception there is none: the movie
    is written under another name beside `path` and renamed at the end.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: int = FPS,
        soundtrack: Audio | None = None,
        num_frames: int,
        comment: str | None = None,
    ) -> None:
        """Width and height in pixels, both even (4:2:0 halves them); `fps` frames a second in the file; a comment that
        players show among its tags."""
        if min(width, height, num_frames) < 1 or width % 2 or height % 2:
            raise ValueError(f"{num_frames} frames of {width} x {height} pixels; needs a frame and even sides")
        self.path = path
        self._size, self._fps, self._num_frames = (width, height), fps, num_frames
        self._comment = comment
        self._given = self._written = 0
        self._sound = None
        if soundtrack is not None:
            sound = encodable(soundtrack)
            self._sound = pad_or_trim(sound, round(Fraction(num_frames * sound.sample_rate, FPS)))

    def __enter__(self) -> Self:
        self._draft = self.path.with_name(f".{self.path.stem}.{uuid4().hex}.part")
        self._container = av.open(self._draft, "w", format="mp4", options=CONTAINER_OPTIONS)
        if self._comment is not None:
            self._container.metadata["comment"] = self._comment
        width, height = self._size
        self._video = add_video(self._container, width=width, height=height, fps=self._fps)
        self._audio = None if self._sound is None else add_audio(self._container, self._sound)
        return self

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Encode the next frames, uint8 RGB of (F, H, W, 3), each with the sound that is heard during it."""
        shape = (*self._size[::-1], 3)
        if frames_FHWC.dtype != np.uint8 or frames_FHWC.shape[1:] != shape:
            raise ValueError(f"frames of {frames_FHWC.dtype} {frames_FHWC.shape}; needs uint8 (F, *{shape})")
        self._check_count(self._given + len(frames_FHWC) <= self._num_frames, len(frames_FHWC))
        for picture_HWC in frames_FHWC:
            self._write_picture(picture_HWC)
            self._write_sound(self._given)
            self._given += 1

    def _check_count(self, right: bool, more: int = 0) -> None:
        if not right:
            raise ValueError(f"{self._given + more} frames written; {self._num_frames} were announced")

    def _write_picture(self, picture_HWC: np.ndarray) -> None:
        """Encode the frame as often as the file shows it; the last one fills the file up."""
        last, total = self._given == self._num_frames - 1, frames_at(self._fps, self._num_frames)
        while self._written < total and (last or source_frame(self._fps, self._written) == self._given):
            self._container.mux(self._video.encode(video_frame(picture_HWC, self._written, self._fps)))
            self._written += 1

    def _write_sound(self, index: int) -> None:
        """Encode what is heard during frame `index`."""
        if self._sound is None or self._audio is None:
            return
        begin, end = (round(Fraction(i * self._sound.sample_rate, FPS)) for i in (index, index + 1))
        for frame in audio_frames(self._sound, begin, end):
            self._container.mux(self._audio.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(av.FFmpegError):
                self._container.close()
            self._draft.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Empty the encoders, write the index and give the file its name."""
        self._check_count(self._given == self._num_frames)
        for stream in (self._video, self._audio):
            if stream is not None:
                self._container.mux(stream.encode(None))
        self._container.close()
        self._draft.replace(self.path)
