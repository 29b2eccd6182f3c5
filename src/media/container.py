"""FFmpeg containers of untrusted files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import av
from av.container import InputContainer

from src.media.file_type import MATROSKA, MediaFile

# Playlists must not make FFmpeg open other files or URLs.
OPTIONS = {"protocol_whitelist": "none"}
# Many streams cost memory; no recording has more.
MAX_STREAMS = 32
SEGMENT_ID = b"\x18S\x80g"


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
