"""Audio files for tests, generated at run time.

N samples, C channels.
"""

from pathlib import Path

import numpy as np
import soundfile

from tests.predict import media_files


def tones(rate: int, channels: int, seconds: float = 1.5) -> np.ndarray:
    """A rising tone, different on each channel: (C, N) float32."""
    return np.ascontiguousarray(media_files.tones(seconds, rate, channels).T)


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
    """Write with FFmpeg, on request beside a video."""
    media_files.encode(str(path), samples_CN.T, rate, codec, form, pictures=with_video, options=options)
    return path


def silent_video(path: Path) -> Path:
    """A video without an audio stream."""
    path.write_bytes(media_files.video_without_audio())
    return path


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
