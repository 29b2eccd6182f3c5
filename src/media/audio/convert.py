"""Conversion of sample rate, channels and length, chunk by chunk.

N samples, C channels.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import soxr

from src.media.audio.audio import Audio
from src.media.audio.spool import iter_chunks, spool, zeros

CENTER_GAIN = math.sqrt(0.5)


def to_mono(audio: Audio, sample_rate: int) -> np.ndarray:
    """The mean of the channels at `sample_rate` Hz: (N,) float32."""
    return convert(audio, sample_rate=sample_rate, num_channels=1).samples_CN[0]


def convert(audio: Audio, *, sample_rate: int, num_channels: int, num_samples: int | None = None) -> Audio:
    """The same audio in another format, optionally cut or zero-padded at its end to `num_samples`.

    To one channel: the mean. From one: a copy in each of the front pair. To two: see `_to_stereo`. To more channels
    than there are: zeros in the others. Nothing is copied if only samples at the end are cut.
    """
    if sample_rate == audio.sample_rate and num_channels == audio.num_channels:
        return audio if num_samples is None else pad_or_trim(audio, num_samples)
    chunks: Iterator[np.ndarray] = (_mix_channels(chunk, num_channels) for chunk in iter_chunks(audio.samples_CN))
    if sample_rate != audio.sample_rate:
        chunks = _resample(chunks, audio, sample_rate, num_channels)
    if num_samples is not None:
        chunks = _pad_or_trim(chunks, num_channels, num_samples)
    return Audio(samples_CN=spool(chunks), sample_rate=sample_rate)


def converted_length(audio: Audio, sample_rate: int) -> int:
    """The number of samples at another sample rate."""
    return math.ceil(audio.num_samples * (sample_rate / audio.sample_rate))


def pad_or_trim(audio: Audio, num_samples: int) -> Audio:
    """The audio cut, or zero-padded at its end, to `num_samples`."""
    if num_samples <= audio.num_samples:
        return Audio(samples_CN=audio.samples_CN[:, :num_samples], sample_rate=audio.sample_rate)
    chunks = _pad_or_trim(iter_chunks(audio.samples_CN), audio.num_channels, num_samples)
    return Audio(samples_CN=spool(chunks), sample_rate=audio.sample_rate)


def _pad_or_trim(chunks: Iterable[np.ndarray], num_channels: int, num_samples: int) -> Iterator[np.ndarray]:
    """Chunks with `num_samples` samples in all."""
    left = num_samples
    for chunk_CN in chunks:
        yield chunk_CN[:, :left]
        left -= min(left, chunk_CN.shape[1])
    yield from zeros(num_channels, left)


def _mix_channels(samples_CN: np.ndarray, num_channels: int) -> np.ndarray:
    if num_channels == 1:
        return samples_CN.mean(axis=0, dtype=np.float32, keepdims=True)
    if len(samples_CN) == 1:
        samples_CN = np.repeat(samples_CN, 2, axis=0)
    if len(samples_CN) <= num_channels:
        return np.pad(samples_CN, ((0, num_channels - len(samples_CN)), (0, 0)))
    if num_channels == 2:
        return _to_stereo(samples_CN)
    raise ValueError(f"{len(samples_CN)} channels to {num_channels}; fewer than there are can only be 1 or 2")


def _to_stereo(samples_CN: np.ndarray) -> np.ndarray:
    """The front pair, and the mean of all other channels at -3 dB on both sides."""
    return samples_CN[:2] + np.float32(CENTER_GAIN) * samples_CN[2:].mean(axis=0)


def _resample(chunks: Iterable[np.ndarray], audio: Audio, sample_rate: int, num_channels: int) -> Iterator[np.ndarray]:
    """Band-limited resampling by soxr of chunks of `audio`, to `converted_length` samples."""
    stream = soxr.ResampleStream(audio.sample_rate, sample_rate, num_channels, dtype="float32", quality="HQ")
    end = np.empty((num_channels, 0), np.float32)

    def resampled() -> Iterator[np.ndarray]:
        for chunk_CN, last in chain(((chunk_CN, False) for chunk_CN in chunks), [(end, True)]):
            chunk_NC = np.ascontiguousarray(chunk_CN.T, np.float32).reshape(-1, num_channels)
            yield stream.resample_chunk(chunk_NC, last=last).reshape(-1, num_channels).T

    return _pad_or_trim(resampled(), num_channels, converted_length(audio, sample_rate))
