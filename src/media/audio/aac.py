"""Audio as AAC, in the soundtrack's own sample rate and channels where AAC supports them.

N samples, C channels.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from src.media.audio.audio import Audio
from src.media.audio.convert import convert
from src.media.audio.spool import release_pages
from src.media.rates import samples_at

SAMPLE_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
# Limits of the bit rate; the format has room for six bits per sample.
MAX_BITS_PER_CHANNEL = 96_000
MAX_BITS_PER_SAMPLE = 6
FRAME_SAMPLES = 1024


def to_aac_format(audio: Audio, num_frames: int) -> Audio:
    """Audio of `num_frames` video frames at the next higher sample rate of AAC, or its highest.

    Channel counts that AAC does not support become stereo. Nothing is copied if the format is supported already.
    """
    sample_rate = next((rate for rate in SAMPLE_RATES if rate >= audio.sample_rate), SAMPLE_RATES[-1])
    num_channels = audio.num_channels if audio.num_channels in LAYOUTS else 2
    return convert(
        audio,
        sample_rate=sample_rate,
        num_channels=num_channels,
        num_samples=samples_at(sample_rate, num_frames),
    )


def add_audio(container: OutputContainer, audio: Audio) -> AudioStream:
    """An audio stream for `audio`, which must be in a format of AAC."""
    stream = container.add_stream("aac", rate=audio.sample_rate, layout=LAYOUTS[audio.num_channels])
    stream.bit_rate = min(MAX_BITS_PER_CHANNEL, MAX_BITS_PER_SAMPLE * audio.sample_rate) * audio.num_channels
    return stream


def audio_frames(audio: Audio, start: int, end: int) -> Iterator[av.AudioFrame]:
    """The samples from `start` to before `end` in frames of at most FRAME_SAMPLES, with timestamps."""
    for first in range(start, end, FRAME_SAMPLES):
        packed_1N = audio.samples_CN[:, first : min(first + FRAME_SAMPLES, end)].T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(packed_1N, np.float32), format="flt", layout=LAYOUTS[audio.num_channels]
        )
        frame.rate, frame.pts, frame.time_base = audio.sample_rate, first, Fraction(1, audio.sample_rate)
        yield frame
    release_pages(audio.samples_CN)
