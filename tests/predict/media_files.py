"""Pictures, sounds and videos as bytes, made on the spot, and as the data URIs that a caller sends.

N samples, C channels.
"""

import base64
import io
from functools import cache
from typing import Any

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
UNTYPED = "application/octet-stream"
SIZE = (256, 128)
RATE = 16_000


def uri(data: bytes, kind: str = UNTYPED) -> str:
    """What a caller sends for a file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def half(data: bytes) -> bytes:
    """A file that was cut off on its way."""
    return data[: len(data) // 2]


def two_people(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    """Another colour and texture on each side, so that left and right, up and down differ."""
    y_HW, x_HW = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    right_HW = x_HW > 0.5
    red_HW = np.where(right_HW, 200, 40) * (1 - y_HW)
    waves_HW = 127 + 100 * np.sin(40 * x_HW * y_HW)
    blue_HW = np.where(right_HW, 30, 180)
    return Image.fromarray(np.stack([red_HW, waves_HW, blue_HW], axis=2).astype(np.uint8))


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@cache
def plain(form: str = "PNG", size: tuple[int, int] = SIZE) -> bytes:
    """The picture of two people in a format."""
    return saved(two_people(*size), form)


@cache
def blank(width: int, height: int, form: str = "PNG") -> bytes:
    """Very many pixels in few bytes."""
    return saved(Image.new("1", (width, height)), form)


def tones(seconds: float = 0.4, rate: int = RATE, channels: int = 1, pitch: float = 300.0) -> np.ndarray:
    """A tone that rises, another on each channel: (N, C) float32."""
    time_N = np.arange(round(rate * seconds)) / rate
    pitches = [2 * np.pi * (pitch + 100 * channel + 200 * time_N) for channel in range(channels)]
    return np.stack([0.3 * np.sin(pitch_N * time_N) for pitch_N in pitches], axis=1).astype(np.float32)


def recorded(samples_NC: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file, written by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples_NC, rate, format=form, subtype=subtype)
    return file.getvalue()


def encoded(samples_NC: np.ndarray, rate: int, codec: str, form: str, *, pictures: bool = False) -> bytes:
    """An audio file, written by FFmpeg; on request as a video's audio."""
    file = io.BytesIO()
    encode(file, samples_NC, rate, codec, form, pictures=pictures)
    return file.getvalue()


def encode(
    file: Any,
    samples_NC: np.ndarray,
    rate: int,
    codec: str,
    form: str,
    *,
    pictures: bool = False,
    options: dict[str, str] | None = None,
) -> None:
    """Write to a path or an open file."""
    layout = LAYOUTS[samples_NC.shape[1]]
    with av.open(file, "w", format=form, options=options or {}) as container:
        video = _video_stream(container) if pictures else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, AudioStream)
        if video is not None:
            _draw(container, video, len(samples_NC) / rate)
        for first in range(0, len(samples_NC), 1024):
            packed_1N = np.ascontiguousarray(samples_NC[first : first + 1024]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed_1N, format="flt", layout=layout)
            frame.rate, frame.pts = rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@cache
def voice(form: str = "WAV", seconds: float = 0.4) -> bytes:
    """One voice in a format."""
    match form:
        case "MP3":
            return encoded(tones(seconds), RATE, "mp3", "mp3")
        case "M4A":
            return encoded(tones(seconds), RATE, "aac", "ipod")
        case "video":
            return encoded(tones(seconds), RATE, "aac", "mp4", pictures=True)
    return recorded(tones(seconds), form=form)


@cache
def video_without_audio(seconds: float = 0.4) -> bytes:
    """A video without a sound track."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        _draw(container, _video_stream(container), seconds)
    return file.getvalue()


def _video_stream(container: OutputContainer) -> VideoStream:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    return stream


def _draw(container: OutputContainer, stream: VideoStream, seconds: float) -> None:
    for index in range(round(25 * seconds)):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * index % 255, np.uint8), format="rgb24")
        frame.pts = index
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
