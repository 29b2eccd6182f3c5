"""Decode audio with FFmpeg: everything that has an audio stream, from MP3 to a video.

N samples, C channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, groupby

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from src.errors import InputError
from src.media.audio.audio import Audio, check_format
from src.media.audio.declared_length import DeclaredLength
from src.media.audio.spool import zeros
from src.media.audio.timestamps import PlacedFrame, place_frames
from src.media.container import format_names, is_truncated_matroska, open_container, presentation_start
from src.media.file_type import MediaFile
from src.media.video.mp4_index import check_index_size
from src.serving.request_warnings import warn_caller

NEEDED = "an audio file, or a video with an audio stream, is needed"
# Undecodable packets (tags, for example) are common; more than this share of them means that the file is damaged.
MAX_DAMAGED_SHARE = 0.1
# Formats whose header declares the length of the audio stream; for others it is FFmpeg's estimate.
DECLARING_FORMATS = frozenset({"mp4", "aiff", "au", "tta", "wv"})
# Encoder delay that is missing from the edit list.
TOLERANCE_SECONDS = 0.25
# Audio without video that begins later than this is a fragment of a longer recording.
MAX_LATE_SECONDS = 60.0
# Formats whose clock may restart within a file; a longer gap is such a restart.
RESTARTING_FORMATS = frozenset({"mpegts", "mpeg", "ogg"})
MAX_GAP_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class _Track:
    """An audio stream of an open file. `seconds` are those of all packets read, with the gaps after them."""

    container: InputContainer
    stream: AudioStream
    file: MediaFile
    seconds: float = 0.0


def decode_ffmpeg(file: MediaFile) -> Iterator[Audio]:
    """Yield the first audio stream that can be decoded, with silence in its gaps, from `presentation_start` on.

    Raises InputError for a file that FFmpeg cannot read, that has no audio, is damaged, or is shorter than its
    container declares.
    """
    errors: list[InputError | av.FFmpegError] = []
    with file.path.open("rb") as data:
        check_index_size(data, file)
        truncated = is_truncated_matroska(data, file)
        for index in count():
            with open_container(data, file, kind="audio", needed=NEEDED) as container:
                if errors and index >= len(container.streams.audio):
                    raise errors[0]
                try:
                    chunks = _decode_track(_open_track(container, index, file), truncated=truncated)
                    first = next(chunks, None)
                    if first is None:
                        raise file.error(f"holds no samples; {NEEDED}")
                except (InputError, av.FFmpegError) as error:
                    errors.append(error)
                    continue
                if index:
                    warn_caller(
                        f"{file.name}: its audio stream 1 cannot be decoded; stream {index + 1} is used instead"
                    )
                yield from chain([first], chunks)
                return


def _open_track(container: InputContainer, index: int, file: MediaFile) -> _Track:
    if not container.streams.audio:
        raise file.error(f"has no audio stream; {NEEDED}")
    stream = container.streams.audio[index]
    if stream.codec_context is None:
        raise file.error(f"has an audio stream of an unknown codec; {NEEDED}")
    check_format(sample_rate=stream.rate, num_channels=stream.channels, name=file.name)
    return _Track(container=container, stream=stream, file=file)


def _decode_track(track: _Track, *, truncated: bool) -> Iterator[Audio]:
    """The samples of a track, as long as its container declares."""
    start = presentation_start(track.container)
    placed = place_frames(
        _decode_frames(track),
        start=None if start is None else float(start),
        max_late=math.inf if track.container.streams.video else MAX_LATE_SECONDS,
        max_gap=MAX_GAP_SECONDS if RESTARTING_FORMATS & format_names(track.container) else math.inf,
        name=track.file.name,
    )
    yield from _check_length(_resample(placed, name=track.file.name), track, float(start or 0), truncated=truncated)


def _decode_frames(track: _Track) -> Iterator[av.AudioFrame]:
    """Decode packet by packet and skip damaged ones, up to MAX_DAMAGED_SHARE."""
    num_packets = num_damaged = 0
    for packet in track.container.demux(track.stream):
        num_packets += 1
        track.seconds += float((packet.duration or 0) * packet.time_base)
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            num_damaged += 1
            frames = []
        yield from frames
    if num_damaged > MAX_DAMAGED_SHARE * num_packets:
        raise track.file.error(f"is damaged: {num_damaged} of its {num_packets} packets cannot be decoded; {NEEDED}")


def _resample(placed: Iterator[PlacedFrame], *, name: str) -> Iterator[Audio]:
    """Samples as (C, N) float32, in the sample rate and channel layout of the first frame.

    Both change within concatenated files and in broadcasts; FFmpeg converts such frames.
    """
    first: av.AudioFrame | None = None
    for _, group in groupby(placed, lambda item: _frame_format(item.frame)):
        head = next(group)
        check_format(sample_rate=head.frame.rate, num_channels=head.frame.layout.nb_channels, name=name)
        first = head.frame if first is None else first
        resampler = av.AudioResampler(format="flt", layout=first.layout, rate=first.rate)
        for frame, silence, skip in chain([head], group):
            num_silent = round(silence * first.rate / frame.rate)
            yield from (
                Audio(samples_CN=zeros_CN, sample_rate=first.rate)
                for zeros_CN in zeros(first.layout.nb_channels, num_silent)
            )
            num_skipped = round(skip * first.rate / frame.rate)
            yield from (_to_audio(packed, skip=num_skipped) for packed in resampler.resample(frame))
        if head.frame is not first:
            yield from (_to_audio(packed) for packed in resampler.resample(None))


def _frame_format(frame: av.AudioFrame) -> tuple[str, str, int]:
    """The properties of a frame that a resampler is made for."""
    return frame.format.name, frame.layout.name, frame.rate


def _to_audio(packed: av.AudioFrame, skip: int = 0) -> Audio:
    """A frame of interleaved float32, without its first samples."""
    samples_NC = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)[skip:]
    return Audio(samples_CN=np.ascontiguousarray(samples_NC.T), sample_rate=packed.rate)


def _check_length(chunks: Iterator[Audio], track: _Track, start: float, *, truncated: bool) -> Iterator[Audio]:
    """Compare samples and packets with the container's declared length, if there is one.

    The padding of the last packet, beyond that length, is removed from the last chunk.
    """
    num_samples, last = 0, None
    for chunk in chunks:
        if last is not None:
            yield last
        num_samples, last = num_samples + chunk.num_samples, chunk
    if last is None:
        return
    declared = _declared_seconds(track, truncated=truncated)
    if declared is not None:
        read = track.seconds or num_samples / last.sample_rate
        DeclaredLength(seconds=declared, tolerance=TOLERANCE_SECONDS).check(read, track.file)
        end = declared + float(track.stream.start_time or 0) * float(track.stream.time_base or 0) - start
        excess = num_samples - round(end * last.sample_rate)
        if 0 < excess < last.num_samples:
            last = Audio(samples_CN=last.samples_CN[:, :-excess], sample_rate=last.sample_rate)
    yield last


def _declared_seconds(track: _Track, *, truncated: bool) -> float | None:
    """The length of the audio stream, if the container declares it."""
    container, stream = track.container, track.stream
    if container.duration and "matroska" in container.format.name and truncated:
        return container.duration / av.time_base
    if not DECLARING_FORMATS & format_names(container) or not stream.duration:
        return None
    return stream.duration * float(stream.time_base or 0)
