"""Sound through FFmpeg: everything that has a sound track, from MP3 to the sound of a video.

N samples, C channels.
"""

from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from src.errors import InputError
from src.media.audio.chunk import AudioChunk, check_format
from src.media.audio.declared_length import DeclaredLength, is_truncated_matroska
from src.media.file_type import describe_file
from src.media.video.mp4_index import check_index_size

ALLOWED = "a sound file, or a video with a sound track, is needed"
# A playlist in the upload must not make FFmpeg open other files or addresses.
OPTIONS = {"protocol_whitelist": "none"}
# A file of very many streams is no recording but an attack on memory.
MAX_STREAMS = 32
# Tags and other foreign matter between the packets are common; a file that is mostly damage is none.
MAX_DAMAGED_SHARE = 0.1
# Formats whose header gives the length of the sound track.
STATED = frozenset({"mp4", "aiff", "au", "tta", "wv"})
# Encoder delay that an edit list does not mention.
TRACK_TOLERANCE = 0.25


def ffmpeg_blocks(path: Path, *, name: str) -> Iterator[AudioChunk]:
    """Yield the first sound track of a file, without what its time stamps place before zero.

    Raises InputError for what FFmpeg cannot read, for files without sound, for damaged ones and for those
    that hold less than their container says.
    """
    check_index_size(path, name=name)
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", options=OPTIONS, metadata_errors="replace") as container,
        ):
            stream = _sound_track(container, path, name=name)
            frames = _frames(container, stream, path, name=name)
            seconds = _track_seconds(container, stream, path)
            yield from _whole(_blocks(frames, name=name), seconds, path, name=name)
    except (av.FFmpegError, OSError) as error:
        reason = f"is no sound, damaged or cut off ({error.strerror})"
        raise InputError(f"{name}: {describe_file(path)} {reason}; {ALLOWED}") from error


def _sound_track(container: InputContainer, path: Path, *, name: str) -> AudioStream:
    if len(container.streams) > MAX_STREAMS:
        many = f"has {len(container.streams):,} streams; at most {MAX_STREAMS} are allowed"
        raise InputError(f"{name}: {describe_file(path)} {many}")
    if not container.streams.audio:
        raise InputError(f"{name}: {describe_file(path)} has no sound track; {ALLOWED}")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise InputError(f"{name}: {describe_file(path)} has a sound track of an unknown encoding; {ALLOWED}")
    check_format(sample_rate=stream.rate, num_channels=stream.channels, name=name)
    return stream


def _frames(container: InputContainer, stream: AudioStream, path: Path, *, name: str) -> Iterator[av.AudioFrame]:
    """Decode packet by packet, over a damaged one now and then."""
    packets = damaged = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            damaged += 1
            frames = []
        yield from frames
    if damaged > MAX_DAMAGED_SHARE * packets:
        share = f"{damaged} of its {packets} packets are damaged"
        raise InputError(f"{name}: {describe_file(path)}: {share}; {ALLOWED}")


def _blocks(frames: Iterator[av.AudioFrame], *, name: str) -> Iterator[AudioChunk]:
    """Samples as (C, N) float32, in the rate and layout of the first frame.

    Both change where files were put behind each other, and in broadcasts; FFmpeg converts what comes in others.
    """
    first: av.AudioFrame | None = None
    for _, alike in groupby(frames, _kind):
        head = next(alike)
        check_format(sample_rate=head.rate, num_channels=head.layout.nb_channels, name=name)
        first = head if first is None else first
        resampler = av.AudioResampler(format="flt", layout=first.layout, rate=first.rate)
        for frame in chain([head], alike):
            early = round(max(-(frame.time or 0.0), 0.0) * first.rate)
            yield from (_block(packed, early) for packed in resampler.resample(frame))
        if head is not first:
            yield from (_block(packed) for packed in resampler.resample(None))


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    """What of a frame a resampler is made for."""
    return frame.format.name, frame.layout.name, frame.rate


def _block(packed: av.AudioFrame, early: int = 0) -> AudioChunk:
    """A frame of interleaved float32 without its first samples."""
    samples_NC = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)[early:]
    return AudioChunk(samples_CN=np.ascontiguousarray(samples_NC.T), sample_rate=packed.rate)


def _whole(blocks: Iterator[AudioChunk], seconds: float | None, path: Path, *, name: str) -> Iterator[AudioChunk]:
    """Hold the blocks against the length in seconds that the container gives the track, if it does.

    The last block loses what is beyond it, the padding of the last packet.
    """
    found, last = 0, None
    for block in blocks:
        if last is not None:
            yield last
        found, last = found + block.samples_CN.shape[1], block
    if last is None:
        return
    if seconds is not None:
        DeclaredLength(seconds=seconds, tolerance=TRACK_TOLERANCE).check(found / last.sample_rate, path, name=name)
        beyond = found - round(seconds * last.sample_rate)
        if 0 < beyond < last.samples_CN.shape[1]:
            last = AudioChunk(samples_CN=last.samples_CN[:, :-beyond], sample_rate=last.sample_rate)
    yield last


def _track_seconds(container: InputContainer, stream: AudioStream, path: Path) -> float | None:
    """The length of the track where the container states it; that of other formats is FFmpeg's guess."""
    if container.duration and "matroska" in container.format.name and is_truncated_matroska(path):
        return container.duration / av.time_base
    stated = STATED & set(container.format.name.split(","))
    if not stated or not stream.duration or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)
