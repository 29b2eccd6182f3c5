"""The length of audio that a file's header declares, which detects files that were cut off.

Parsed here because the decoders silently shorten the declared length to the data they find.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from src.media.file_type import MediaFile

MAX_CHUNKS = 1000
# WAV files written to a pipe declare 0 bytes or one of several values close to 2 or 4 GiB.
MIN_STREAMED_SIZE = 0x7FFFF000
UNKNOWN_SIZE_32 = 0xFFFFFFFF

MP3_SCAN_BYTES = 8192
MP3_SAMPLE_RATES = {0b11: (44100, 48000, 32000), 0b10: (22050, 24000, 16000), 0b00: (11025, 12000, 8000)}
MPEG_1 = 0b11
MONO = 0b11
# Decoders remove encoder delay and padding, which are at most this many frames.
MP3_PADDING_FRAMES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredLength:
    """Seconds of audio that a header declares, and how many of them may be missing."""

    seconds: float
    tolerance: float = 0.04

    def check(self, seconds: float, file: MediaFile) -> None:
        """Raises InputError if only `seconds` could be decoded."""
        if seconds < self.seconds - self.tolerance:
            raise file.error(
                f"is damaged or cut off: its header declares {self.seconds:.2f} s of audio, but it holds "
                f"{seconds:.2f} s; a complete file is needed"
            )


def read_declared_length(file: MediaFile) -> DeclaredLength | None:
    """The length in the header of a WAV, FLAC or MP3 file; None if it declares none."""
    magic = file.head[:4]
    with file.path.open("rb") as data:
        if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and file.head[8:12] == b"WAVE":
            return _wav_length(data, file.size, ">" if magic == b"RIFX" else "<")
        if magic == b"fLaC":
            return _flac_length(data)
        return _mp3_length(data)


def _wav_length(data: BinaryIO, file_size: int, byte_order: str) -> DeclaredLength | None:
    """The length of the data chunk if it exceeds the rest of the file, unless it was streamed."""
    bytes_per_second, size_64 = 0, None
    for kind, size, position in _riff_chunks(data, byte_order):
        if kind == b"fmt ":
            bytes_per_second = _read_int(f"{byte_order}8xI", data)
        elif kind == b"ds64":
            size_64 = _read_int(f"{byte_order}8xQ", data)
        elif kind == b"data":
            if size == UNKNOWN_SIZE_32 and size_64:
                size = size_64
            elif size >= MIN_STREAMED_SIZE:
                return None
            is_truncated = size > file_size - position
            return DeclaredLength(seconds=size / bytes_per_second) if is_truncated and bytes_per_second else None
    return None


def _riff_chunks(data: BinaryIO, byte_order: str) -> Iterator[tuple[bytes, int, int]]:
    """Type, size and position of the chunks of a RIFF file; `data` stands at the position of the yielded one."""
    position = 12
    for _ in range(MAX_CHUNKS):
        data.seek(position)
        head = data.read(8)
        if len(head) < 8:
            return
        kind, size = struct.unpack(f"{byte_order}4sI", head)
        yield kind, size, position + 8
        position += 8 + size + size % 2


def _read_int(format: str, data: BinaryIO) -> int:
    """One integer at the current position, 0 if the file ends before it."""
    packed = data.read(struct.calcsize(format))
    return struct.unpack(format, packed)[0] if len(packed) == struct.calcsize(format) else 0


def _flac_length(data: BinaryIO) -> DeclaredLength | None:
    """From STREAMINFO: 20 bits of sample rate, 8 of format, 36 of number of samples (0 means unknown)."""
    data.seek(18)
    bits = _read_int(">Q", data)
    sample_rate, num_samples = bits >> 44, bits & (2**36 - 1)
    return DeclaredLength(seconds=num_samples / sample_rate) if sample_rate and num_samples else None


def _mp3_length(data: BinaryIO) -> DeclaredLength | None:
    """From the Xing or Info header in the first frame, which gives the number of frames; None without one."""
    head = _read_after_id3(data)
    start = next((i for i in range(len(head) - 1) if head[i] == 0xFF and head[i + 1] >> 5 == 0b111), None)
    if start is None or start + 4 > len(head):
        return None
    header = int.from_bytes(head[start : start + 4], "big")
    version, layer, rate_index, mode = header >> 19 & 3, header >> 17 & 3, header >> 10 & 3, header >> 6 & 3
    if layer != 0b01 or version not in MP3_SAMPLE_RATES or rate_index == 3:
        return None
    frame_seconds = (1152 if version == MPEG_1 else 576) / MP3_SAMPLE_RATES[version][rate_index]
    side_info_bytes = (17 if mode == MONO else 32) if version == MPEG_1 else (9 if mode == MONO else 17)
    xing = head[start + 4 + side_info_bytes : start + 4 + side_info_bytes + 12]
    if xing[:4] not in (b"Xing", b"Info") or len(xing) < 12 or not xing[7] & 1:
        return None
    num_frames = int.from_bytes(xing[8:12], "big")
    return DeclaredLength(seconds=num_frames * frame_seconds, tolerance=MP3_PADDING_FRAMES * frame_seconds)


def _read_after_id3(data: BinaryIO) -> bytes:
    """The first bytes after an ID3v2 tag, whose size is stored in four times seven bits."""
    head = data.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        data.seek(10 + size)
    else:
        data.seek(0)
    return data.read(MP3_SCAN_BYTES)
