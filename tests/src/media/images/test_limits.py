"""Scans of JPEG files are counted, and the largest images fit into the memory that decoding may take."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.errors import InputError
from src.media.file_type import probe
from src.media.image import read_image, read_mask
from src.media.images.jpeg import MAX_SCANS, count_scans
from src.media.sandbox import MAX_MEMORY

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def jpeg(**options: Any) -> bytes:
    data = io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB").save(data, "JPEG", **options)
    return data.getvalue()


def jpeg_of_many_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = jpeg(progressive=True).removesuffix(END_OF_IMAGE)
    last = data[data.rindex(START_OF_SCAN) :]
    return data + last * (num_scans - count_scans(data)) + END_OF_IMAGE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (jpeg(), 1),
        (jpeg(progressive=True), 10),
        (jpeg(restart_marker_rows=1), 1),
        (jpeg_of_many_scans(80), 80),
        (jpeg_of_many_scans(5000), MAX_SCANS + 1),
        (jpeg() + START_OF_SCAN * 500, 1),  # a video after the photograph, as telephones write it
        (jpeg(comment=START_OF_SCAN * 500), 1),
        (jpeg()[:300], 0),
        (b"\x89PNG" + START_OF_SCAN * 500, 0),
    ],
)
def test_count_scans(data: bytes, expected: int) -> None:
    assert count_scans(data) == expected


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "upload").write_bytes(jpeg())
    monkeypatch.chdir(tmp_path)
    assert read_image(probe("upload", name="image")).size == (64, 64)


def test_jpeg_of_many_scans_is_refused_as_image_and_as_mask(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(jpeg_of_many_scans(5000))
    file = probe(tmp_path / "upload", name="image")
    with pytest.raises(InputError, match=f"image.* more than {MAX_SCANS} scans"):
        read_image(file)
    with pytest.raises(InputError, match="scans"):
        read_mask(file, height=64, width=64)
    (tmp_path / "upload").write_bytes(jpeg_of_many_scans(MAX_SCANS))
    assert read_image(probe(tmp_path / "upload", name="image")).size == (64, 64)


READ = """
import json, pathlib, resource, sys
from src.media.file_type import probe
from src.media.image import read_image
image = read_image(probe(pathlib.Path(sys.argv[1]), name="image"))
print(json.dumps([image.size, image.getpixel((5, 5)), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""
"""In a process of its own, whose only child is the decoder."""


def test_largest_16_bit_image_fits_into_the_memory(tmp_path: Path) -> None:
    width, height = 10_000, 8_000
    packer = zlib.compressobj(1)
    row = b"\0" + b"\x78\x00" * width
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )
    (tmp_path / "upload").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / "upload"], check=True, capture_output=True, text=True)
    size, pixel, decoder_bytes = json.loads(done.stdout)
    assert (size, pixel) == ([width, height], [120] * 3)
    assert decoder_bytes < MAX_MEMORY
