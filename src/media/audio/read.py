"""Read the selected part of an audio file.

N samples, C channels.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from src.errors import InputError
from src.media.audio.audio import MAX_VALUES, Audio
from src.media.audio.decode import decode
from src.media.audio.spool import spool
from src.media.file_type import probe

MIN_SECONDS = 0.04
# Longer than any file; larger values overflow when converted to samples.
MAX_SEEK_SECONDS = 1e9
# Everything before `start` has to be decoded, and weeks of silence are a small file.
MAX_START_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimeRange:
    """The selected part of a file in seconds; without a duration, up to the end."""

    start: float
    duration: float | None

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise InputError(f"audio_start is {self.start} s; it must be 0 or more")
        if self.duration is not None and not MIN_SECONDS <= self.duration < math.inf:
            raise InputError(f"audio_duration is {self.duration} s; it must be at least {MIN_SECONDS} s")

    def bounds(self, sample_rate: int) -> tuple[int, float]:
        """Index of the first sample and of the one after the last (infinity without a duration)."""
        first = round(min(self.start, MAX_SEEK_SECONDS) * sample_rate)
        if self.duration is None:
            return first, math.inf
        return first, first + round(min(self.duration, MAX_SEEK_SECONDS) * sample_rate)


def read_audio(
    path: Path, *, name: str, start: float = 0.0, duration: float | None = None, max_seconds: float
) -> Audio:
    """Read an audio file, or the audio stream of a video, of any format, sample rate and number of channels.

    `start` and `duration` (seconds; the inputs `audio_start` and `audio_duration`) select a part; a `duration` beyond
    the end means up to the end. Reading stops with an error after `max_seconds`.
    Raises InputError for a file that is not audio, is damaged or cut off, for NaN or infinite samples, for less than
    MIN_SECONDS or more than `max_seconds`, for a part outside the file, and for one after MAX_START_SECONDS.
    """
    selected = _TimeRange(start=start, duration=duration)
    with closing(decode(probe(path, name=name))) as chunks:
        first = next(chunks)
        samples_CN = spool(_select(chain([first], chunks), selected, max_seconds=max_seconds, name=name))
    return Audio(samples_CN=samples_CN, sample_rate=first.sample_rate)


def _select(chunks: Iterable[Audio], selected: _TimeRange, *, max_seconds: float, name: str) -> Iterator[np.ndarray]:
    """The selected samples of each chunk, checked."""
    num_read = num_used = sample_rate = 0
    for chunk in chunks:
        sample_rate = chunk.sample_rate
        first, end = selected.bounds(sample_rate)
        used_CN = _slice(chunk, first - num_read, end - num_read)
        num_read += chunk.num_samples
        num_used += used_CN.shape[1]
        if not num_used and num_read > MAX_START_SECONDS * sample_rate:
            raise InputError(
                f"audio_start is {selected.start:g} s, and {name} continues after {MAX_START_SECONDS:,} s, the most "
                "that can be skipped; send only the needed part"
            )
        _check_samples(used_CN, num_used=num_used, sample_rate=sample_rate, max_seconds=max_seconds, name=name)
        yield used_CN
        if num_read >= end:
            break
    if num_used < MIN_SECONDS * sample_rate:
        raise InputError(_too_short(selected, used=num_used / sample_rate, read=num_read / sample_rate, name=name))


def _slice(chunk: Audio, first: int, end: float) -> np.ndarray:
    """The samples from `first` to before `end`, both relative to the chunk and possibly outside it."""
    length = chunk.num_samples
    return chunk.samples_CN[:, min(max(first, 0), length) : int(min(max(end, 0), length))]


def _check_samples(used_CN: np.ndarray, *, num_used: int, sample_rate: int, max_seconds: float, name: str) -> None:
    """Raises InputError for too many samples, `num_used` up to and including these, and for NaN or infinite ones."""
    if num_used > max_seconds * sample_rate:
        raise InputError(
            f"{name} lasts more than {math.floor(num_used / sample_rate * 100) / 100} s; at most {max_seconds:g} s of "
            "audio are allowed (the operator sets MAX_SECONDS); audio_start and audio_duration select a part"
        )
    if num_used * len(used_CN) > MAX_VALUES:
        raise InputError(
            f"{name} has more than {MAX_VALUES:,} samples in its {len(used_CN)} channels at {sample_rate:,} Hz, which "
            "is the maximum; convert it to a lower sample rate or to stereo"
        )
    if not np.isfinite(used_CN).all():
        seconds = num_used / sample_rate
        raise InputError(f"{name} has NaN or infinite samples near {seconds:.1f} s; finite ones are needed")


def _too_short(selected: _TimeRange, *, used: float, read: float, name: str) -> str:
    """The error message when less than MIN_SECONDS are selected from `read` seconds."""
    if selected.start >= read:
        return f"audio_start is {selected.start:g} s, but {name} ends at {read:.2f} s; it must begin before that"
    what = f"audio_start {selected.start:g} s leaves {used:.3f} s of {name}" if selected.start else ""
    return f"{what or f'{name} lasts {used:.3f} s'}; at least {MIN_SECONDS} s (one video frame) are needed"
