"""A piece of decoded sound, and the sample formats that are accepted at all.

N samples, C channels.
"""

from dataclasses import dataclass

import numpy as np

from src.errors import InputError

MAX_CHANNELS = 64
MIN_RATE = 1_000
MAX_RATE = 768_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk:
    """Consecutive samples, float32, nominally in [-1, 1]; `sample_rate` in Hz."""

    samples_CN: np.ndarray
    sample_rate: int


def check_format(*, sample_rate: int, num_channels: int, name: str) -> None:
    """Raises InputError for a header that claims what no recording has, before memory is taken for it."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"{name} has a sample rate of {sample_rate:,} Hz; {MIN_RATE:,} to {MAX_RATE:,} are allowed")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InputError(f"{name} has {num_channels:,} channels; 1 to {MAX_CHANNELS} are allowed")
