"""Audio files for tests, generated at run time.

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
    """A rising tone, different on each channel: (C, N) float32."""
    time_N = np.arange(round(rate * seconds)) / rate
    pitches = [2 * np.pi * (300 + 100 * channel + 200 * time_N) for channel in range(channels)]
    return np.stack([0.3 * np.sin(pitch_N * time_N) for pitch_N in pitches]).astype(np.float32)


def wav(path: Path, samples_CN: np.ndarray, rate: int, **options: str) -> Path:
    """Write with libsndfile; `options` are its format, subtype and endian."""
    soundfile.write(str(path), samples_CN.T, rate, **{"format": "WAV", **options})
    return path


def encoded(
    path: Path,
    samples_CN: np.ndarray,
    rate: int,
    *,
    codec: str,
    form: str,
    with_video: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write with FFmpeg, on request beside a black video."""
    layout = LAYOUTS[len(samples_CN)]
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        video = _video_stream(container) if with_video else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, AudioStream)
        if video is not None:
            _write_black(container, video, samples_CN.shape[1] / rate)
        for first in range(0, samples_CN.shape[1], 1024):
            packed_1N = np.ascontiguousarray(samples_CN[:, first : first + 1024].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed_1N, format="flt", layout=layout)
            frame.rate, frame.pts = rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def silent_video(path: Path, seconds: float = 1.0) -> Path:
    """A video without an audio stream."""
    with av.open(str(path), "w", format="mp4") as container:
        _write_black(container, _video_stream(container), seconds)
    return path


def _video_stream(container: OutputContainer) -> VideoStream:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    return stream


def _write_black(container: OutputContainer, stream: VideoStream, seconds: float) -> None:
    for index in range(round(25 * seconds)):
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        frame.pts = index
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def truncated(path: Path, share: float = 0.5) -> Path:
    """The first `share` of a file, in a file beside it."""
    data = path.read_bytes()
    target = path.with_name(f"{path.name}-truncated")
    target.write_bytes(data[: round(len(data) * share)])
    return target


def correlation(a_CN: np.ndarray, b_CN: np.ndarray) -> float:
    """The smallest correlation of two corresponding channels, over the length of the shorter array."""
    length = min(a_CN.shape[1], b_CN.shape[1])
    pairs = zip(a_CN[:, :length], b_CN[:, :length], strict=True)
    return min(float(np.corrcoef(*pair)[0, 1]) for pair in pairs)
