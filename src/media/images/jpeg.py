"""The scans of a JPEG image, counted before it is decoded.

A progressive JPEG may refine the whole image in any number of scans of a few bytes each, and every scan costs processor
time for all pixels.
"""

import mmap
import re

SOI = b"\xff\xd8\xff"
# A marker is 0xFF and a byte that is neither 0 (an escaped 0xFF in a scan), 0xFF (fill) nor a restart marker.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
STANDALONE = (0x01, 0xD8)
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
MAX_SCANS = 100
"""Encoders write about ten."""


def count_scans(data: bytes | mmap.mmap) -> int:
    """The number of scans of the first image in `data`, up to MAX_SCANS + 1; 0 for another format."""
    view = memoryview(data)
    position, num_scans = len(SOI) - 1, 0
    if view[: len(SOI)] != SOI:
        return 0
    while num_scans <= MAX_SCANS and (match := MARKER.search(view, position)):
        marker, position = match[1][0], match.end()
        if marker == END_OF_IMAGE:
            break
        if marker not in STANDALONE:
            num_scans += marker == START_OF_SCAN
            position += max(2, int.from_bytes(view[position : position + 2], "big"))
    return num_scans
