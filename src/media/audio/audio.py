"""Sound as the caller gave it: read, brought to one channel, brought to another format.

N samples, C channels.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soxr

from src.errors import InputError
from src.media.audio.chunk import AudioChunk
from src.media.audio.decode import decode
from src.media.audio.spool import iter_chunks, spool, zeros
from src.media.file_type import require_file

MIN_SECONDS = 0.04
# 1 GiB as float32: ten minutes of stereo at 192 kHz.
MAX_VALUES = 1 << 28
CENTER_GAIN = math.sqrt(0.5)
# Beyond every file; more seconds than this overflow once they are counted in samples.
MAX_SEEK_SECONDS = 1e9
# How far `start` may reach into a file: what is skipped is decoded, and silence of weeks is a small file.
MAX_START_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """Samples (C, N), float32, nominally in [-1, 1]; `sample_rate` in Hz."""

    samples_CN: np.ndarray
    sample_rate: int

    @property
    def num_channels(self) -> int:
        return self.samples_CN.shape[0]

    @property
    def seconds(self) -> float:
        return self.samples_CN.shape[1] / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimeRange:
    """The part of a file that is used, in seconds; without a duration, up to the end."""

    start: float
    duration: float | None

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise InputError(f"audio_start is {self.start} s; it must be 0 or more")
        if self.duration is not None and not MIN_SECONDS <= self.duration < math.inf:
            raise InputError(f"audio_duration is {self.duration} s; it must be at least {MIN_SECONDS} s")

    def bounds(self, rate: int) -> tuple[int, float]:
        """First sample and the one after the last (infinity without a duration)."""
        first = round(min(self.start, MAX_SEEK_SECONDS) * rate)
        if self.duration is None:
            return first, math.inf
        return first, first + round(min(self.duration, MAX_SEEK_SECONDS) * rate)


def read_audio(
    path: Path, *, name: str, start: float = 0.0, duration: float | None = None, max_seconds: float
) -> Audio:
    """Read a sound file, or the sound of a video, of any format, rate and channels.

    `start` and `duration` (seconds; the inputs `audio_start` and `audio_duration`) select a part; a
    duration beyond the end means up to the end. Reading stops, with an error, after `max_seconds`.
    Raises InputError for what is no sound, damaged or cut off, for samples that are no finite numbers, for
    less than MIN_SECONDS, for more than is allowed, for a part that is not in the file, and for one that begins
    after MAX_START_SECONDS.
    """
    part = _TimeRange(start=start, duration=duration)
    require_file(path, name=name)
    with closing(decode(path, name=name)) as blocks:
        first = next(blocks)
        samples_CN = spool(_selected(chain([first], blocks), part, max_seconds=max_seconds, name=name))
    return Audio(samples_CN=samples_CN, sample_rate=first.sample_rate)


def _selected(blocks: Iterable[AudioChunk], part: _TimeRange, *, max_seconds: float, name: str) -> Iterator[np.ndarray]:
    """What is used of each block, checked."""
    seen = used = rate = 0
    for block in blocks:
        rate = block.sample_rate
        first, end = part.bounds(rate)
        piece_CN = _cut(block, first - seen, end - seen)
        seen += block.samples_CN.shape[1]
        used += piece_CN.shape[1]
        if not used and seen > MAX_START_SECONDS * rate:
            raise InputError(
                f"audio_start is {part.start:g} s, and {name} goes on after {MAX_START_SECONDS:,} s; "
                "no more can be skipped, so send the part that is meant"
            )
        _check_piece(piece_CN, used=used, rate=rate, max_seconds=max_seconds, name=name)
        yield piece_CN
        if seen >= end:
            break
    if used < MIN_SECONDS * rate:
        raise InputError(_too_short(part, used=used / rate, seen=seen / rate, name=name))


def _cut(block: AudioChunk, first: int, end: float) -> np.ndarray:
    """The samples of a block from `first` to before `end`, both counted from its beginning."""
    length = block.samples_CN.shape[1]
    return block.samples_CN[:, min(max(first, 0), length) : int(min(max(end, 0), length))]


def _check_piece(piece_CN: np.ndarray, *, used: int, rate: int, max_seconds: float, name: str) -> None:
    if used > max_seconds * rate:
        lasts = f"{name} lasts more than {math.floor(used / rate * 100) / 100} s"
        raise InputError(
            f"{lasts}; at most {max_seconds:g} s of sound are allowed (the operator sets MAX_SECONDS); "
            "audio_start and audio_duration select a part"
        )
    if used * len(piece_CN) > MAX_VALUES:
        raise InputError(
            f"{name} holds more than {MAX_VALUES:,} samples in its {len(piece_CN)} channels at {rate:,} Hz; "
            "at most so many are allowed, so convert it to a lower rate or to stereo"
        )
    if not np.isfinite(piece_CN).all():
        raise InputError(f"{name} holds NaN or infinite samples near {used / rate:.1f} s; needs finite ones")


def _too_short(part: _TimeRange, *, used: float, seen: float, name: str) -> str:
    """Why nothing usable is left of `seen` seconds of sound."""
    if part.start >= seen:
        return f"audio_start is {part.start:g} s, but {name} ends at {seen:.2f} s; it must begin before that"
    left = f"{name} lasts {used:.3f} s"
    if part.start:
        left = f"audio_start {part.start:g} s leaves {used:.3f} s of {name}"
    return f"{left}; at least {MIN_SECONDS} s (one frame of video) are needed"


def silence_like(sound: Audio) -> Audio:
    """One silent channel, as long as another sound."""
    return Audio(samples_CN=spool(zeros(1, sound.samples_CN.shape[1])), sample_rate=sound.sample_rate)


def to_mono(sound: Audio, sample_rate: int) -> np.ndarray:
    """The mean of the channels at `sample_rate` Hz: (N,) float32."""
    return convert(sound, sample_rate=sample_rate, num_channels=1).samples_CN[0]


def convert(sound: Audio, *, sample_rate: int, num_channels: int) -> Audio:
    """The same sound at another rate (Hz) and number of channels.

    To one channel: the mean. From one: a copy on each of the front pair. To two: as `_to_stereo` says. To
    more than it has: silence in the others.
    """
    if sample_rate == sound.sample_rate and num_channels == sound.num_channels:
        return sound
    mixed: Iterator[np.ndarray] = (_channels(piece_CN, num_channels) for piece_CN in iter_chunks(sound.samples_CN))
    if sample_rate != sound.sample_rate:
        mixed = _resampled(mixed, sound, sample_rate, num_channels)
    return Audio(samples_CN=spool(mixed), sample_rate=sample_rate)


def pad_or_trim(sound: Audio, samples: int) -> Audio:
    """The sound cut, or padded with silence at its end, to a number of samples."""
    kept_CN = sound.samples_CN[:, :samples]
    missing = samples - kept_CN.shape[1]
    if not missing:
        return Audio(samples_CN=kept_CN, sample_rate=sound.sample_rate)
    return Audio(
        samples_CN=spool(chain(iter_chunks(kept_CN), zeros(sound.num_channels, missing))), sample_rate=sound.sample_rate
    )


def _channels(samples_CN: np.ndarray, channels: int) -> np.ndarray:
    if channels == 1:
        return samples_CN.mean(axis=0, dtype=np.float32, keepdims=True)
    if len(samples_CN) == 1:
        samples_CN = np.repeat(samples_CN, 2, axis=0)
    if len(samples_CN) <= channels:
        return np.pad(samples_CN, ((0, channels - len(samples_CN)), (0, 0)))
    if channels == 2:
        return _to_stereo(samples_CN)
    raise ValueError(f"{len(samples_CN)} channels to {channels}; fewer than there are can be 1 or 2")


def _to_stereo(samples_CN: np.ndarray) -> np.ndarray:
    """The front pair, and the mean of all others at -3 dB on both sides."""
    return samples_CN[:2] + np.float32(CENTER_GAIN) * samples_CN[2:].mean(axis=0)


def _resampled(parts: Iterable[np.ndarray], sound: Audio, rate: int, channels: int) -> Iterator[np.ndarray]:
    """Parts of a sound at another rate: band-limited, by soxr; ceil(N * rate / sound.sample_rate) samples in all."""
    stream = soxr.ResampleStream(sound.sample_rate, rate, channels, dtype="float32", quality="HQ")
    left = math.ceil(sound.samples_CN.shape[1] * (rate / sound.sample_rate))
    end = np.empty((channels, 0), np.float32)
    for part_CN, last in chain(((part, False) for part in parts), [(end, True)]):
        part_NC = np.ascontiguousarray(part_CN.T, np.float32).reshape(-1, channels)
        found_CN = stream.resample_chunk(part_NC, last=last).reshape(-1, channels).T[:, :left]
        left -= found_CN.shape[1]
        yield found_CN
    yield from zeros(channels, left)
