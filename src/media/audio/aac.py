"""Sound as AAC: the caller's rate and channels where AAC has them.

N samples, C channels.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from src.media.audio.audio import Audio, convert
from src.media.audio.spool import release_pages

RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
# At most this, and at most six bits a sample, which is what the format has room for.
BITS_PER_CHANNEL = 96_000
BITS_PER_SAMPLE = 6
FRAME_SAMPLES = 1024


def encodable(sound: Audio) -> Audio:
    """The sound, at the next higher rate that AAC knows (else the highest); rare channel counts as stereo."""
    rate = next((rate for rate in RATES if rate >= sound.sample_rate), RATES[-1])
    channels = sound.num_channels if sound.num_channels in LAYOUTS else 2
    return convert(sound, sample_rate=rate, num_channels=channels)


def add_audio(container: OutputContainer, sound: Audio) -> AudioStream:
    """An audio stream in the format of `sound`, which must be encodable."""
    stream = container.add_stream("aac", rate=sound.sample_rate, layout=LAYOUTS[sound.num_channels])
    stream.bit_rate = min(BITS_PER_CHANNEL, BITS_PER_SAMPLE * sound.sample_rate) * sound.num_channels
    return stream


def audio_frames(sound: Audio, begin: int, end: int) -> Iterator[av.AudioFrame]:
    """The samples from `begin` to before `end`, in small frames with their times."""
    for first in range(begin, end, FRAME_SAMPLES):
        packed_1N = sound.samples_CN[:, first : min(first + FRAME_SAMPLES, end)].T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(packed_1N, np.float32), format="flt", layout=LAYOUTS[sound.num_channels]
        )
        frame.rate, frame.pts, frame.time_base = sound.sample_rate, first, Fraction(1, sound.sample_rate)
        yield frame
    release_pages(sound.samples_CN)
