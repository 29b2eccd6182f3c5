"""Colors of images with ICC profiles and coded colors are those of sRGB."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from src.media.file_type import probe
from src.media.image import KINDS, read_image
from src.media.images.coded_color import PRIMARIES, SRGB, ColorSpace, matrix_profile
from src.media.images.decode import decode
from src.serving.request_warnings import collect_warnings

DISPLAY_P3 = matrix_profile(PRIMARIES[12])
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREEN_FIRST = SRGB_PROFILE.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
HEIC = Path(__file__).parents[3] / "data" / "rotated_display_p3.heic"
"""Red and green above blue and gray, in Display P3, stored sideways."""


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Pixels, decoded in this process, and warnings."""
    with collect_warnings() as messages:
        (width, height), parts = decode(probe(path, name="image"), background_color="white", kinds=KINDS)
        return np.vstack([np.asarray(part) for part in parts]).reshape(height, width, 3), messages


def colorful(side: int = 128) -> Image.Image:
    """Soft gradients of many colors."""
    y, x = np.mgrid[:side, :side] / side
    return Image.fromarray((40 + 180 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8))


def converted(image: Image.Image, profile: bytes, mode: str = "RGB") -> Image.Image:
    """An sRGB image in the colors of a profile."""
    result = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile)), outputMode=mode
    )
    assert result is not None
    return result


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_display_p3_is_converted(tmp_path: Path, form: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    image = converted(colorful(), DISPLAY_P3)
    image.save(tmp_path / "upload", form, icc_profile=DISPLAY_P3, **options.get(form, {}))
    pixels_HWC, messages = read(tmp_path / "upload")
    assert messages == []
    assert np.abs(pixels_HWC - np.asarray(colorful(), float)).mean() < (0.3 if form in ("PNG", "TIFF", "WEBP") else 1.5)


def test_profile_with_swapped_channels(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "upload", "PNG", icc_profile=GREEN_FIRST)
    assert read_image(probe(tmp_path / "upload", name="image")).getpixel((5, 5)) == (0, 255, 0)


@pytest.mark.parametrize("profile", [SRGB_PROFILE, matrix_profile(SRGB)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_srgb_is_left_as_it_is(tmp_path: Path, profile: bytes, mode: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).convert(mode)
    noise.save(tmp_path / "plain", "PNG")
    noise.save(tmp_path / "tagged", "PNG", icc_profile=profile)
    (plain, _), (tagged, messages) = read(tmp_path / "plain"), read(tmp_path / "tagged")
    assert np.array_equal(plain, tagged)
    assert messages == []


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_transparency_is_kept(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((255, 0, 0, 0), (0, 0, 32, 64))
    image.convert(mode).save(tmp_path / "upload", "PNG", icc_profile=GREEN_FIRST)
    pixels_HWC, _ = read(tmp_path / "upload")
    assert pixels_HWC[5, 5].tolist() == [255, 255, 255]
    assert pixels_HWC[5, 60].tolist() == ([76, 76, 76] if mode == "LA" else [0, 255, 0])


def gray_profile(gamma: float) -> bytes:
    """A profile of gray with a power curve."""
    curve = struct.pack(">4sIHHi", b"para", 0, 0, 0, round(gamma * 65536))
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, len(curve), b"wtpt", 156 + len(curve), len(white))
    head = DISPLAY_P3[4:128].replace(b"RGB ", b"GRAY")
    return struct.pack(">I", 156 + len(curve) + len(white)) + head + table + curve + white


@pytest.mark.parametrize(("mode", "form"), [("L", "PNG"), ("LA", "PNG"), ("I;16", "TIFF")])
def test_gray_profile(tmp_path: Path, mode: str, form: str) -> None:
    levels_HW = np.full((40, 40), 188 * (257 if mode == "I;16" else 1), np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(levels_HW)
    (image.convert("LA") if mode == "LA" else image).save(tmp_path / "upload", form, icc_profile=gray_profile(1.0))
    pixels_HWC, messages = read(tmp_path / "upload")
    assert messages == []
    assert pixels_HWC[5, 5].tolist() == pytest.approx([223] * 3, abs=1)  # sRGB of the luminance 188 / 255


def test_lab_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    converted(colorful(), profile, "LAB").save(tmp_path / "upload", "TIFF", icc_profile=profile)
    pixels_HWC, messages = read(tmp_path / "upload")
    assert messages == []
    assert np.abs(pixels_HWC - np.asarray(colorful(), float)).mean() < 1


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile at all" * 20),
        ("RGB", DISPLAY_P3[:300]),
        ("RGB", DISPLAY_P3.replace(b"rTRC", b"????")),
        ("RGB", gray_profile(1.0)),
        ("CMYK", DISPLAY_P3),
        ("L", DISPLAY_P3.replace(b"RGB ", b"CMYK")),
    ],
)
def test_unusable_profile_is_ignored_with_a_warning(tmp_path: Path, mode: str, profile: bytes) -> None:
    colorful().convert(mode).save(tmp_path / "plain", "TIFF")
    colorful().convert(mode).save(tmp_path / "tagged", "TIFF", icc_profile=profile)
    (plain, _), (tagged, messages) = read(tmp_path / "plain"), read(tmp_path / "tagged")
    assert np.array_equal(plain, tagged)
    assert len(messages) == 1
    assert "image: its color profile is damaged" in messages[0]


def with_chunks(path: Path, image: Image.Image, **chunks: bytes) -> Path:
    """A PNG with further chunks before its pixels."""
    image.save(path, "PNG")
    data = path.read_bytes()
    extra = b"".join(
        struct.pack(">I", len(body)) + name.encode() + body + struct.pack(">I", zlib.crc32(name.encode() + body))
        for name, body in chunks.items()
    )
    path.write_bytes(data[:33] + extra + data[33:])
    return path


def test_png_profile_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = with_chunks(tmp_path / "upload", colorful(), iCCP=b"profile\0\0not compressed")
    pixels_HWC, messages = read(path)
    assert np.array_equal(pixels_HWC, np.asarray(colorful()))
    assert "cannot be unpacked" in messages[0]


@pytest.mark.parametrize(
    ("chunks", "space"),
    [
        ({"cICP": bytes([12, 13, 0, 1])}, PRIMARIES[12]),
        ({"cICP": bytes([9, 13, 0, 1]), "sRGB": b"\0"}, PRIMARIES[9]),
        ({"cICP": bytes([1, 13, 0, 1])}, SRGB),
        ({"gAMA": struct.pack(">I", 45455)}, SRGB),
        ({"gAMA": struct.pack(">I", 100_000)}, SRGB._replace(gamma=1.0)),
        ({"gAMA": struct.pack(">I", 100_000), "sRGB": b"\0"}, SRGB),
        ({"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)}, PRIMARIES[12]),
    ],
)
def test_coded_colors_of_png(tmp_path: Path, chunks: dict[str, bytes], space: ColorSpace) -> None:
    image = colorful() if space == SRGB else converted(colorful(), matrix_profile(space))
    pixels_HWC, messages = read(with_chunks(tmp_path / "upload", image, **chunks))
    assert messages == []
    assert np.abs(pixels_HWC - np.asarray(colorful(), float)).mean() < (1e-9 if space == SRGB else 0.5)


def test_hdr_is_named(tmp_path: Path) -> None:
    pixels_HWC, messages = read(with_chunks(tmp_path / "upload", colorful(), cICP=bytes([9, 16, 0, 1])))
    assert np.array_equal(pixels_HWC, np.asarray(colorful()))
    assert "HDR" in messages[0]


def test_heic_is_upright_and_in_srgb() -> None:
    """Read by the process that reads all images."""
    image = read_image(probe(HEIC, name="image"))
    assert image.size == (96, 64)
    corners = [np.asarray(image)[y, x] for y, x in ((8, 8), (8, 88), (56, 8), (56, 88))]
    expected = [(255, 0, 0), (0, 128, 0), (0, 0, 255), (90, 90, 90)]
    assert np.abs(np.subtract(corners, expected)).max() <= 2


def test_heic_of_several_images() -> None:
    pixels_HWC, messages = read(HEIC.with_name("two_images.heic"))
    assert pixels_HWC[5, 5].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert messages == ["image holds several images; the main one is used"]
