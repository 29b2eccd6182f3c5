"""Encode frames and a soundtrack to MP4 while the frames arrive.

F frames, H height, W width, 3 colors.
"""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import av
import numpy as np

from src.media.audio.aac import add_audio, audio_frames, to_aac_format
from src.media.audio.audio import Audio
from src.media.rates import FPS, frames_at, samples_at, source_frame
from src.media.video.h264 import add_video, video_frame

# The index at the front lets players start before the whole file is downloaded.
CONTAINER_OPTIONS = {"movflags": "+faststart"}


class VideoWriter:
    """Encode exactly `num_frames` frames at FPS as H.264, and a soundtrack of the same length as AAC, into `path`.

    A file with another frame rate repeats or drops frames; its duration is the same to the nearest frame.
    A context manager: on a clean exit the file is complete; after an exception there is none, because it is written
    under a temporary name beside `path` and renamed at the end.
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
        """`width` and `height` in pixels, both even (4:2:0); `fps` of the file; `comment` is a tag of the container."""
        if min(width, height, num_frames) < 1 or width % 2 or height % 2:
            raise ValueError(f"{num_frames} frames of {width} x {height} pixels; needs a frame and even sides")
        self.path = path
        self._size, self._fps, self._num_frames = (width, height), fps, num_frames
        self._comment = comment
        self._frames_in = self._frames_out = 0
        self._soundtrack = None
        if soundtrack is not None:
            assert soundtrack.num_samples == samples_at(soundtrack.sample_rate, num_frames), "soundtrack's length"
            self._soundtrack = to_aac_format(soundtrack, num_frames)

    def __enter__(self) -> Self:
        self._tmp_path = self.path.with_name(f".{self.path.stem}.{uuid4().hex}.part")
        self._container = av.open(self._tmp_path, "w", format="mp4", options=CONTAINER_OPTIONS)
        if self._comment is not None:
            self._container.metadata["comment"] = self._comment
        width, height = self._size
        self._video = add_video(self._container, width=width, height=height, fps=self._fps)
        self._audio = None if self._soundtrack is None else add_audio(self._container, self._soundtrack)
        return self

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Encode the next frames, uint8 RGB of (F, H, W, 3), each followed by its part of the soundtrack."""
        shape = (*self._size[::-1], 3)
        if frames_FHWC.dtype != np.uint8 or frames_FHWC.shape[1:] != shape:
            raise ValueError(f"frames of {frames_FHWC.dtype} {frames_FHWC.shape}; needs uint8 (F, *{shape})")
        num_after = self._frames_in + len(frames_FHWC)
        if num_after > self._num_frames:
            raise ValueError(f"{num_after} frames written; {self._num_frames} were announced")
        for frame_HWC in frames_FHWC:
            self._write_frame(frame_HWC)
            self._write_audio(self._frames_in)
            self._frames_in += 1

    def _write_frame(self, frame_HWC: np.ndarray) -> None:
        """Encode the frame as often as the file shows it; the last one fills the file up."""
        is_last, total = self._frames_in == self._num_frames - 1, frames_at(self._fps, self._num_frames)
        while self._frames_out < total and (is_last or source_frame(self._fps, self._frames_out) == self._frames_in):
            self._container.mux(self._video.encode(video_frame(frame_HWC, self._frames_out, self._fps)))
            self._frames_out += 1

    def _write_audio(self, index: int) -> None:
        """Encode the soundtrack during frame `index`."""
        if self._soundtrack is None or self._audio is None:
            return
        start, end = (samples_at(self._soundtrack.sample_rate, i) for i in (index, index + 1))
        for frame in audio_frames(self._soundtrack, start, end):
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
            self._tmp_path.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Flush the encoders, write the index and rename the file."""
        if self._frames_in != self._num_frames:
            raise ValueError(f"{self._frames_in} frames written; {self._num_frames} were announced")
        for stream in (self._video, self._audio):
            if stream is not None:
                self._container.mux(stream.encode(None))
        self._container.close()
        self._tmp_path.replace(self.path)
