"""The type of decoded audio.

N samples, C channels.
"""

from dataclasses import dataclass

import numpy as np

from src.errors import InputError

MAX_CHANNELS = 64
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000
# In all channels: 1 GiB as float32, ten minutes of stereo at 192 kHz.
MAX_VALUES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """Samples (C, N), float32, nominally in [-1, 1]; `sample_rate` in Hz."""

    samples_CN: np.ndarray
    sample_rate: int

    @property
    def num_channels(self) -> int:
        return self.samples_CN.shape[0]

    @property
    def num_samples(self) -> int:
        return self.samples_CN.shape[1]

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def silence_like(audio: Audio) -> Audio:
    """One silent channel of the same length and sample rate. The samples are read-only and take no memory."""
    zeros_CN = np.broadcast_to(np.zeros(1, np.float32), (1, audio.num_samples))
    return Audio(samples_CN=zeros_CN, sample_rate=audio.sample_rate)


def check_format(*, sample_rate: int, num_channels: int, name: str) -> None:
    """Raises InputError for an implausible header, before memory is allocated for its samples."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise InputError(
            f"{name} has a sample rate of {sample_rate:,} Hz; {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,} are allowed"
        )
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InputError(f"{name} has {num_channels:,} channels; 1 to {MAX_CHANNELS} are allowed")
