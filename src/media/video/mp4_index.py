"""How many samples the index of an MP4 or MOV file announces, counted before FFmpeg makes room for all of them.

A table may give one size for all samples, so that a few bytes announce billions.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from src.errors import InputError
from src.media.file_type import describe_file

# Far beyond what the longest allowed sound and video have.
MAX_SAMPLES = 4_000_000
MAX_INDEX_BYTES = 1 << 26
MAX_BOXES = 100_000
# The boxes in which FFmpeg looks for others.
NESTING = frozenset(
    (
        *(b"moov", b"moof", b"trak", b"traf", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"udta"),
        *(b"meta", b"tref", b"wave", b"ilst", b"wide", b"free", b"hoov", b"cmov", b"sinf", b"schi", b"ipro"),
    )
)
# Where each kind of table keeps its count, behind its name.
COUNTS = re.compile(rb"(?s:stsz.{8}(.{4})|stz2.{8}(.{4})|trun.{4}(.{4}))")
DURATIONS = re.compile(rb"(?s:stts.{4}(.{4}).{4}(.{4}))")
VIDEO_OR_OTHER = re.compile(rb"(?s:hdlr.{8}(vide|subt|text|meta|tmcd))")
ONE = struct.pack(">I", 1)


def check_index_size(path: Path, *, name: str) -> None:
    """Raises InputError for more than MAX_SAMPLES samples in all tracks, or an index that is huge or compressed.

    A file of another format has no such tables and passes.
    """
    samples = size = 0
    for count, content in enumerate(_index_boxes(path), 1):
        size += len(content)
        samples += sum(_samples(track) for track in content.split(b"trak"))
        if samples > MAX_SAMPLES or size > MAX_INDEX_BYTES or count > MAX_BOXES or b"cmov" in content:
            raise InputError(
                f"{name}: {describe_file(path)} has an index of {samples:,} samples, {size:,} bytes and {count:,} "
                f"boxes; at most {MAX_SAMPLES:,}, {MAX_INDEX_BYTES:,} and {MAX_BOXES:,} are allowed, and none that is "
                "compressed"
            )


def _index_boxes(path: Path) -> Iterator[bytes]:
    """The content of the outermost boxes, cut where it is too long anyway; empty for those that hold no tables."""
    end = path.stat().st_size
    with path.open("rb") as file:
        begin = 0
        while begin + 8 <= end:
            file.seek(begin)
            size, kind = struct.unpack(">I4s", file.read(8))
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            stop = min(begin + size, end) if size else end
            readable = min(max(0, stop - file.tell()), MAX_INDEX_BYTES + 1)
            yield kind + file.read(readable) if kind in NESTING else b""
            if stop < begin + 8:
                return
            begin = stop


def _samples(track: bytes) -> int:
    """How many samples FFmpeg would list; of sound in samples of one tick each it lists the chunks only."""
    durations = DURATIONS.findall(track)
    if durations and all(pair == (ONE, ONE) for pair in durations) and not VIDEO_OR_OTHER.search(track):
        return 0
    return sum(int.from_bytes(b"".join(groups), "big") for groups in COUNTS.findall(track))
