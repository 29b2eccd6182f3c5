"""A video file taken apart.

F frames, H height, W width, 3 colours; N samples, C channels.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

import av
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputVideo:
    """What a player finds in an MP4."""

    data: bytes
    frames_FHWC: np.ndarray
    codec: str
    pixels: str
    fps: float
    video_seconds: float
    samples_CN: np.ndarray
    sound_codec: str
    rate: int
    sound_seconds: float

    @property
    def frames(self) -> int:
        return len(self.frames_FHWC)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames_FHWC.shape[2], self.frames_FHWC.shape[1]

    @property
    def sound(self) -> np.ndarray:
        """The mean of the channels, (N,), cut or padded to the stated length: the codec rounds up to a packet."""
        mono_N = self.samples_CN.mean(axis=0)
        return mono_N[: round(self.sound_seconds * self.rate)]


def output_bytes(answer: dict[str, Any]) -> bytes:
    """The file in the answer to a request."""
    kind, _, encoded = answer["output"].partition(";base64,")
    assert kind == "data:video/mp4"
    return base64.b64decode(encoded)


def decode_frames(answer: dict[str, Any]) -> np.ndarray:
    """The pictures of an answer without sound: (F, H, W, 3) uint8."""
    with av.open(io.BytesIO(output_bytes(answer)), "r") as container:
        assert not container.streams.audio
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_output(answer: dict[str, Any]) -> OutputVideo:
    """The video in the answer to a request."""
    data = output_bytes(answer)
    with av.open(io.BytesIO(data), "r") as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.duration is not None
        assert audio.duration is not None
        assert video.time_base is not None
        assert audio.time_base is not None
        frames: list[np.ndarray] = []
        blocks: list[np.ndarray] = []
        for frame in container.decode(video, audio):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
            elif isinstance(frame, av.AudioFrame):
                blocks.append(frame.to_ndarray())
        return OutputVideo(
            data=data,
            frames_FHWC=np.stack(frames),
            codec=video.codec_context.name,
            pixels=str(video.codec_context.pix_fmt),
            fps=float(video.average_rate or 0),
            video_seconds=float(video.duration * video.time_base),
            samples_CN=np.concatenate(blocks, axis=1),
            sound_codec=audio.codec_context.name,
            rate=audio.rate,
            sound_seconds=float(audio.duration * audio.time_base),
        )


def correlation(found_N: np.ndarray, given_N: np.ndarray) -> float:
    """Correlation of two signals over the length both have."""
    length = min(len(found_N), len(given_N))
    return float(np.corrcoef(found_N[:length], given_N[:length])[0, 1])


def rms(signal_N: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(signal_N))))
