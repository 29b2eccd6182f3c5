"""How much sound a file's header promises, so that one that was cut off on its way here is noticed.

Read from the bytes, because the decoders quietly shorten the promise to what they find.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from src.errors import InputError
from src.media.file_type import describe_file

MAX_CHUNKS = 1000
# Writers to a pipe cannot know the size: they leave 0, or one of several values close to 2 or 4 GiB.
STREAMED_FROM = 0x7FFFF000
UNKNOWN_SIZE_32 = 0xFFFFFFFF

EBML_MARK = b"\x1aE\xdf\xa3"
SEGMENT_MARK = b"\x18S\x80g"

MP3_SCAN = 8192
MP3_RATES = {0b11: (44100, 48000, 32000), 0b10: (22050, 24000, 16000), 0b00: (11025, 12000, 8000)}
MPEG_1 = 0b11
MONO = 0b11
# Encoder delay and padding, which decoders remove again, are within this many frames.
MP3_PADDING_FRAMES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredLength:
    """Seconds of sound that a header announces, and how many of them may rightly be missing."""

    seconds: float
    tolerance: float = 0.04

    def check(self, found: float, path: Path, *, name: str) -> None:
        """Raises InputError when only `found` seconds could be read."""
        if found < self.seconds - self.tolerance:
            raise InputError(
                f"{name}: {describe_file(path)} is damaged or cut off: its header declares {self.seconds:.2f} s "
                f"of audio, but it holds {found:.2f} s; a complete file is needed"
            )


def read_declared_length(path: Path) -> DeclaredLength | None:
    """What the header of a WAV, FLAC or MP3 file announces; None where it announces nothing."""
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:] == b"WAVE":
            return _wav_length(file, path.stat().st_size, ">" if head[:4] == b"RIFX" else "<")
        if head[:4] == b"fLaC":
            return _flac_length(file)
        return _mp3_length(file)


def _wav_length(file: BinaryIO, file_bytes: int, order: str) -> DeclaredLength | None:
    """A promise when the data chunk is larger than the rest of the file, unless it was streamed."""
    bytes_per_second, long_size = 0, None
    for kind, size, position in _chunks(file, order):
        if kind == b"fmt ":
            bytes_per_second = _field(f"{order}8xI", file)
        elif kind == b"ds64":
            long_size = _field(f"{order}8xQ", file)
        elif kind == b"data":
            if size == UNKNOWN_SIZE_32 and long_size:
                size = long_size
            elif size >= STREAMED_FROM:
                return None
            missing = size > file_bytes - position
            return DeclaredLength(seconds=size / bytes_per_second) if missing and bytes_per_second else None
    return None


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, bytes and position of the chunks of a RIFF file, which stands at that position meanwhile."""
    position = 12
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, size = struct.unpack(f"{order}4sI", head)
        yield kind, size, position + 8
        position += 8 + size + size % 2


def _field(form: str, file: BinaryIO) -> int:
    """One integer at the file's position, 0 where the file ends before it."""
    data = file.read(struct.calcsize(form))
    return struct.unpack(form, data)[0] if len(data) == struct.calcsize(form) else 0


def is_truncated_matroska(path: Path) -> bool:
    """Whether a Matroska or WebM file ends before its Segment does; one that was streamed never does."""
    with path.open("rb") as file:
        if file.read(4) != EBML_MARK:
            return False
        file.seek(_ebml_size(file) or 0, 1)
        if file.read(4) != SEGMENT_MARK:
            return False
        size = _ebml_size(file)
        return size is not None and file.tell() + size > path.stat().st_size


def _ebml_size(file: BinaryIO) -> int | None:
    """A size whose leading zero bits tell its length in bytes; all ones mean unknown, None."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _flac_length(file: BinaryIO) -> DeclaredLength | None:
    """From STREAMINFO: 20 bits of sample rate, 8 of format, 36 of length in samples (0 means unknown)."""
    file.seek(18)
    bits = _field(">Q", file)
    rate, samples = bits >> 44, bits & (2**36 - 1)
    return DeclaredLength(seconds=samples / rate) if rate and samples else None


def _mp3_length(file: BinaryIO) -> DeclaredLength | None:
    """From the Xing or Info block in the first frame, which counts the frames; others announce nothing."""
    data = _after_id3(file)
    start = next((i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] >> 5 == 0b111), None)
    if start is None or start + 4 > len(data):
        return None
    header = int.from_bytes(data[start : start + 4], "big")
    version, layer, rate_index, mode = header >> 19 & 3, header >> 17 & 3, header >> 10 & 3, header >> 6 & 3
    if layer != 0b01 or version not in MP3_RATES or rate_index == 3:
        return None
    frame_seconds = (1152 if version == MPEG_1 else 576) / MP3_RATES[version][rate_index]
    side = (17 if mode == MONO else 32) if version == MPEG_1 else (9 if mode == MONO else 17)
    block = data[start + 4 + side : start + 4 + side + 12]
    if block[:4] not in (b"Xing", b"Info") or len(block) < 12 or not block[7] & 1:
        return None
    frames = int.from_bytes(block[8:12], "big")
    return DeclaredLength(seconds=frames * frame_seconds, tolerance=MP3_PADDING_FRAMES * frame_seconds)


def _after_id3(file: BinaryIO) -> bytes:
    """The first bytes after an ID3v2 tag, whose size is written in four times seven bits."""
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(10 + size)
    else:
        file.seek(0)
    return file.read(MP3_SCAN)
