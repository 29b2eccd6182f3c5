"""Decode audio with FFmpeg: everything that has an audio stream, from MP3 to a video.

N samples, C channels.
"""

from collections.abc import Iterator
from itertools import chain, groupby

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from src.media.audio.audio import Audio, check_format
from src.media.audio.declared_length import DeclaredLength
from src.media.container import is_truncated_matroska, open_container
from src.media.file_type import MediaFile
from src.media.video.mp4_index import check_index_size

NEEDED = "an audio file, or a video with an audio stream, is needed"
# Undecodable packets (tags, for example) are common; more than this share of them means that the file is damaged.
MAX_DAMAGED_SHARE = 0.1
# Formats whose header declares the length of the audio stream; for others it is FFmpeg's estimate.
DECLARING_FORMATS = frozenset({"mp4", "aiff", "au", "tta", "wv"})
# Encoder delay that is missing from the edit list.
TOLERANCE_SECONDS = 0.25


def decode_ffmpeg(file: MediaFile) -> Iterator[Audio]:
    """Yield the first audio stream, without samples whose timestamps are negative.

    Raises InputError for a file that FFmpeg cannot read, that has no audio, is damaged, or is shorter than its
    container declares.
    """
    with file.path.open("rb") as data:
        check_index_size(data, file)
        truncated = is_truncated_matroska(data, file)
        with open_container(data, file, kind="audio", needed=NEEDED) as container:
            stream = _audio_stream(container, file)
            chunks = _resample(_decode_frames(container, stream, file), name=file.name)
            yield from _check_length(chunks, _declared_seconds(container, stream, truncated=truncated), file)


def _audio_stream(container: InputContainer, file: MediaFile) -> AudioStream:
    if not container.streams.audio:
        raise file.error(f"has no audio stream; {NEEDED}")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise file.error(f"has an audio stream of an unknown codec; {NEEDED}")
    check_format(sample_rate=stream.rate, num_channels=stream.channels, name=file.name)
    return stream


def _decode_frames(container: InputContainer, stream: AudioStream, file: MediaFile) -> Iterator[av.AudioFrame]:
    """Decode packet by packet and skip damaged ones, up to MAX_DAMAGED_SHARE."""
    num_packets = num_damaged = 0
    for packet in container.demux(stream):
        num_packets += 1
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            num_damaged += 1
            frames = []
        yield from frames
    if num_damaged > MAX_DAMAGED_SHARE * num_packets:
        raise file.error(f"is damaged: {num_damaged} of its {num_packets} packets cannot be decoded; {NEEDED}")


def _resample(frames: Iterator[av.AudioFrame], *, name: str) -> Iterator[Audio]:
    """Samples as (C, N) float32, in the sample rate and channel layout of the first frame.

    Both change within concatenated files and in broadcasts; FFmpeg converts such frames.
    """
    first: av.AudioFrame | None = None
    for _, group in groupby(frames, _frame_format):
        head = next(group)
        check_format(sample_rate=head.rate, num_channels=head.layout.nb_channels, name=name)
        first = head if first is None else first
        resampler = av.AudioResampler(format="flt", layout=first.layout, rate=first.rate)
        for frame in chain([head], group):
            num_negative = round(max(-(frame.time or 0.0), 0.0) * first.rate)
            yield from (_to_audio(packed, skip=num_negative) for packed in resampler.resample(frame))
        if head is not first:
            yield from (_to_audio(packed) for packed in resampler.resample(None))


def _frame_format(frame: av.AudioFrame) -> tuple[str, str, int]:
    """The properties of a frame that a resampler is made for."""
    return frame.format.name, frame.layout.name, frame.rate


def _to_audio(packed: av.AudioFrame, skip: int = 0) -> Audio:
    """A frame of interleaved float32, without its first samples."""
    samples_NC = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)[skip:]
    return Audio(samples_CN=np.ascontiguousarray(samples_NC.T), sample_rate=packed.rate)


def _check_length(chunks: Iterator[Audio], seconds: float | None, file: MediaFile) -> Iterator[Audio]:
    """Compare the samples with the container's declared length, if there is one.

    The padding of the last packet, beyond that length, is removed from the last chunk.
    """
    num_samples, last = 0, None
    for chunk in chunks:
        if last is not None:
            yield last
        num_samples, last = num_samples + chunk.num_samples, chunk
    if last is None:
        return
    if seconds is not None:
        DeclaredLength(seconds=seconds, tolerance=TOLERANCE_SECONDS).check(num_samples / last.sample_rate, file)
        excess = num_samples - round(seconds * last.sample_rate)
        if 0 < excess < last.num_samples:
            last = Audio(samples_CN=last.samples_CN[:, :-excess], sample_rate=last.sample_rate)
    yield last


def _declared_seconds(container: InputContainer, stream: AudioStream, *, truncated: bool) -> float | None:
    """The length of the audio stream, if the container declares it."""
    if container.duration and "matroska" in container.format.name and truncated:
        return container.duration / av.time_base
    declares = DECLARING_FORMATS & set(container.format.name.split(","))
    if not declares or not stream.duration or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)
