"""The number of samples that the index of an MP4 or MOV file declares, counted before FFmpeg allocates memory for them.

A table may give one size for all samples, so a few bytes can declare billions.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from src.media.file_type import MediaFile

# Far beyond the longest audio and video allowed.
MAX_SAMPLES = 4_000_000
MAX_INDEX_BYTES = 1 << 26
MAX_BOXES = 100_000
# The boxes that FFmpeg descends into.
NESTED_BOXES = frozenset(
    (
        *(b"moov", b"moof", b"trak", b"traf", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"udta"),
        *(b"meta", b"tref", b"wave", b"ilst", b"wide", b"free", b"hoov", b"cmov", b"sinf", b"schi", b"ipro"),
    )
)
# Sample counts, at fixed offsets after the box type.
COUNTS = re.compile(rb"(?s:stsz.{8}(.{4})|stz2.{8}(.{4})|trun.{4}(.{4}))")
DURATIONS = re.compile(rb"(?s:stts.{4}(.{4}).{4}(.{4}))")
VIDEO_OR_OTHER = re.compile(rb"(?s:hdlr.{8}(vide|subt|text|meta|tmcd))")
ONE = struct.pack(">I", 1)


def check_index_size(data: BinaryIO, file: MediaFile) -> None:
    """Raises InputError for more than MAX_SAMPLES samples in all tracks, or an index that is huge or compressed.

    Files of other formats have no such tables and pass.
    """
    num_samples = num_bytes = 0
    for num_boxes, content in enumerate(_index_boxes(data, file.size), 1):
        num_bytes += len(content)
        num_samples += sum(_count_samples(track) for track in content.split(b"trak"))
        too_large = num_samples > MAX_SAMPLES or num_bytes > MAX_INDEX_BYTES or num_boxes > MAX_BOXES
        if too_large or b"cmov" in content:
            raise file.error(
                f"has an index of {num_samples:,} samples, {num_bytes:,} bytes and {num_boxes:,} boxes; at most "
                f"{MAX_SAMPLES:,}, {MAX_INDEX_BYTES:,} and {MAX_BOXES:,} are allowed, and no compressed index"
            )


def _index_boxes(data: BinaryIO, end: int) -> Iterator[bytes]:
    """Type and content of each top-level box, read up to MAX_INDEX_BYTES; empty for boxes without tables."""
    start = 0
    while start + 8 <= end:
        data.seek(start)
        size, kind = struct.unpack(">I4s", data.read(8))
        if size == 1:
            size = int.from_bytes(data.read(8), "big")
        stop = min(start + size, end) if size else end
        readable = min(max(0, stop - data.tell()), MAX_INDEX_BYTES + 1)
        yield kind + data.read(readable) if kind in NESTED_BOXES else b""
        if stop < start + 8:
            return
        start = stop


def _count_samples(track: bytes) -> int:
    """The number of samples that FFmpeg would list; for PCM audio, one tick each, it lists only the chunks."""
    durations = DURATIONS.findall(track)
    if durations and all(pair == (ONE, ONE) for pair in durations) and not VIDEO_OR_OTHER.search(track):
        return 0
    return sum(int.from_bytes(b"".join(groups), "big") for groups in COUNTS.findall(track))
