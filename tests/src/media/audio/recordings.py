"""Sound files for the tests, made on the spot.

N samples, C channels.
"""

from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def tones(rate: int, channels: int, seconds: float = 1.5) -> np.ndarray:
    """Another rising tone on each channel: (C, N) float32."""
    time_N = np.arange(round(rate * seconds)) / rate
    pitches = [2 * np.pi * (300 + 100 * channel + 200 * time_N) for channel in range(channels)]
    return np.stack([0.3 * np.sin(pitch_N * time_N) for pitch_N in pitches]).astype(np.float32)


def wav(path: Path, samples_CN: np.ndarray, rate: int, **options: str) -> Path:
    """Written by libsndfile; `options` are its format, subtype and endian."""
    soundfile.write(str(path), samples_CN.T, rate, **{"format": "WAV", **options})
    return path


def encoded(
    path: Path,
    samples_CN: np.ndarray,
    rate: int,
    *,
    codec: str,
    form: str,
    pictures: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Written by FFmpeg, on request beside a black video."""
    layout = LAYOUTS[len(samples_CN)]
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        video = _video_stream(container) if pictures else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, AudioStream)
        if video is not None:
            _black(container, video, samples_CN.shape[1] / rate)
        for first in range(0, samples_CN.shape[1], 1024):
            packed_1N = np.ascontiguousarray(samples_CN[:, first : first + 1024].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed_1N, format="flt", layout=layout)
            frame.rate, frame.pts = rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def silent_video(path: Path, seconds: float = 1.0) -> Path:
    """A video without a sound track."""
    with av.open(str(path), "w", format="mp4") as container:
        _black(container, _video_stream(container), seconds)
    return path


def _video_stream(container: OutputContainer) -> VideoStream:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    return stream


def _black(container: OutputContainer, stream: VideoStream, seconds: float) -> None:
    for index in range(round(25 * seconds)):
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        frame.pts = index
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def cut(path: Path, share: float = 0.5) -> Path:
    """The first part of a file, beside it."""
    data = path.read_bytes()
    target = path.with_name(f"{path.name}-cut")
    target.write_bytes(data[: round(len(data) * share)])
    return target


def likeness(found_CN: np.ndarray, given_CN: np.ndarray) -> float:
    """The smallest correlation of a channel with what it was made of, over the length both have."""
    length = min(found_CN.shape[1], given_CN.shape[1])
    pairs = zip(found_CN[:, :length], given_CN[:, :length], strict=True)
    return min(float(np.corrcoef(*pair)[0, 1]) for pair in pairs)
