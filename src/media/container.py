"""FFmpeg containers of untrusted files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Stream

from src.media.file_type import MATROSKA, MediaFile

# Playlists must not make FFmpeg open other files or URLs.
OPTIONS = {"protocol_whitelist": "none"}
# Many streams cost memory; no recording has more.
MAX_STREAMS = 32
SEGMENT_ID = b"\x18S\x80g"
# Formats whose timestamps count from the beginning of the file.
FROM_ZERO = frozenset({"mov", "matroska", "avi", "flv", "asf"})
# Formats whose timestamps count from anywhere, also from below zero; in others a time below zero is not presented.
FROM_ANYWHERE = frozenset({"mpegts", "mpeg"})
# A video that begins this much later than the audio: the first frame is shown from the beginning of the audio on.
MAX_LEAD_SECONDS = Fraction(1, 10)


@contextmanager
def open_container(
    data: BinaryIO,
    file: MediaFile,
    *,
    kind: str,
    needed: str,
    format: str | None = None,
    options: Mapping[str, str] = OPTIONS,
) -> Iterator[InputContainer]:
    """Demux an open file. Call `check_index_size` first.

    Raises InputError, also for FFmpeg's errors inside the `with` block; `kind` and `needed` complete its message.
    """
    try:
        data.seek(0)
        with av.open(data, "r", format=format, options=dict(options), metadata_errors="replace") as container:
            if len(container.streams) > MAX_STREAMS:
                raise file.error(f"has {len(container.streams):,} streams; at most {MAX_STREAMS} are allowed")
            yield container
    except (av.FFmpegError, OSError) as error:
        problem = f"cannot be read as {kind}: it is of another type, damaged or cut off ({error.strerror})"
        raise file.error(f"{problem}; {needed}") from error


def format_names(container: InputContainer) -> frozenset[str]:
    """FFmpeg's names of the container's format."""
    return frozenset(container.format.name.split(","))


def presentation_start(container: InputContainer) -> Fraction | None:
    """The timestamp in seconds at which audio and video of a file are both at zero; None means at the first frame.

    That is where the video begins, but where the audio begins if that is more than MAX_LEAD_SECONDS earlier.
    """
    video = container.streams.best("video")
    is_picture = video is not None and av.stream.Disposition.attached_pic in video.disposition
    start = None if video is None or is_picture else _start_seconds(video)
    if start is None:
        return Fraction(0) if FROM_ZERO & format_names(container) else None
    audio_start = _start_seconds(container.streams.audio[0]) if container.streams.audio else None
    if audio_start is not None and start - audio_start > MAX_LEAD_SECONDS:
        start = audio_start
    return start if FROM_ANYWHERE & format_names(container) else max(start, Fraction(0))


def _start_seconds(stream: Stream) -> Fraction | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return stream.start_time * stream.time_base


def is_truncated_matroska(data: BinaryIO, file: MediaFile) -> bool:
    """Whether a Matroska or WebM file ends before its Segment does; False for a streamed one of unknown size."""
    data.seek(0)
    if data.read(4) != MATROSKA:
        return False
    data.seek(_read_ebml_size(data) or 0, 1)
    if data.read(4) != SEGMENT_ID:
        return False
    size = _read_ebml_size(data)
    return size is not None and data.tell() + size > file.size


def _read_ebml_size(data: BinaryIO) -> int | None:
    """An EBML variable-length size: leading zero bits give its length in bytes; all ones mean unknown, None."""
    first = data.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + data.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value
