"""Any picture file becomes the picture a person sees, or a sentence that says why not.

H height, W width.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.errors import InputError
from src.media.image import MAX_PIXELS, MIN_SIDE, UPRIGHT, read_image
from tests.src.media.audio.recordings import silent_video

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def scene() -> Image.Image:
    """Large flat patches, so that lossy formats keep them: red, green over blue, grey; 96 wide, 64 high."""
    patches = np.array([[RED, (0, 128, 0)], [BLUE, (90, 90, 90)]], np.uint8)
    return Image.fromarray(np.kron(patches, np.ones((32, 48, 1), np.uint8)))


def saved(path: Path, image: Image.Image, form: str, **options: Any) -> Path:
    image.save(path, format=form, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, name="portrait")
    assert str(caught.value).startswith("portrait")
    return str(caught.value)


def difference(picture: Image.Image, expected: Image.Image) -> int:
    """The largest difference away from the patches' borders."""
    assert (picture.mode, picture.size) == ("RGB", expected.size)
    gaps_HW3 = np.abs(np.asarray(picture).astype(int) - np.asarray(expected.convert("RGB")))
    return int(max(gaps_HW3[y, x].max() for y in (8, 24, 40, 56) for x in (8, 40, 56, 88)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_every_format_by_its_content(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "upload", scene(), form)
    assert difference(read_image(path), scene()) <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "PA", "LAB"])
def test_every_mode(tmp_path: Path, mode: str) -> None:
    image = scene().convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    form = "TIFF" if mode in ("PA", "CMYK", "YCbCr", "LAB") else "PNG"
    expected = scene().convert("L") if mode in ("L", "LA") else scene()
    picture = read_image(saved(tmp_path / "upload", image, form))
    if mode == "1":
        assert set(np.unique(np.asarray(picture))) == {0, 255}
    else:
        assert difference(picture, expected) <= {"P": 40, "LAB": 25}.get(mode, 3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", scene().convert("CMYK"), "JPEG", quality=95)
    assert difference(read_image(path), scene()) <= 4


@pytest.mark.parametrize(
    ("kind", "white", "form"),
    [
        ("<u2", 65535, "PNG"),
        ("<u2", 65535, "TIFF"),
        (">u2", 65535, "TIFF"),
        ("<i4", 65535, "TIFF"),
        ("<i4", 2**31 - 1, "TIFF"),
        ("<f4", 1.0, "TIFF"),
        ("<f4", 255.0, "TIFF"),
        ("<f4", 65535.0, "TIFF"),
    ],
)
def test_deep_gray_keeps_its_shades(tmp_path: Path, kind: str, white: float, form: str) -> None:
    ramp_HW = np.tile(np.linspace(0, 1, 256), (40, 1))
    path = saved(tmp_path / "upload", Image.fromarray((ramp_HW * white).astype(kind)), form)
    picture_HW3 = np.asarray(read_image(path)).astype(int)
    assert picture_HW3.shape == (40, 256, 3)
    assert np.abs(picture_HW3 - np.arange(256)[None, :, None]).max() <= 1


def test_a_dark_deep_picture_stays_dark(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.fromarray(np.full((40, 40), 200, np.uint16)), "PNG")
    assert read_image(path).getextrema() == ((1, 1),) * 3


def test_gray_values_that_are_no_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF")
    assert "NaN" in refusal(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """A camera that stored the scene in any of eight ways shows the same scene."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = scene().transpose(UPRIGHT[inverse]) if inverse in UPRIGHT else scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "upload", stored, "JPEG", exif=exif, quality=95)
    assert difference(read_image(path), scene()) <= 4


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", scene(), "JPEG", exif=b"Exif\0\0not a header at all", quality=95)
    assert difference(read_image(path), scene()) <= 4


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_transparency_lies_on_white(tmp_path: Path, form: str) -> None:
    alpha_HW = np.full((64, 96), 255, np.uint8)
    alpha_HW[:32] = 0
    image = scene()
    image.putalpha(Image.fromarray(alpha_HW))
    expected = scene()
    expected.paste(WHITE, (0, 0, 96, 32))
    options = {"lossless": True} if form == "WEBP" else {}
    assert difference(read_image(saved(tmp_path / "upload", image, form, **options)), expected) <= 1


def test_half_transparent_red_is_pink(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.new("RGBA", (40, 40), (255, 0, 0, 128)), "PNG")
    assert read_image(path).getpixel((5, 5)) == (255, 127, 127)


def test_a_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = scene().quantize(4)
    path = saved(tmp_path / "upload", image, "PNG", transparency=image.getpixel((5, 5)))
    picture = read_image(path)
    assert picture.getpixel((5, 5)) == WHITE
    assert picture.getpixel((5, 40)) == BLUE


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(tmp_path: Path, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    later = [Image.new("RGB", (96, 64), BLUE)]
    path = saved(tmp_path / "upload", scene(), form, save_all=True, append_images=later, **options)
    assert difference(read_image(path), scene()) <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_a_picture_that_was_cut_off(tmp_path: Path, form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    path = saved(tmp_path / "upload", noise, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(path)
    assert "damaged" in message
    assert "a JPEG, PNG" in message


def claiming(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it is so large, without any of the pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [9000, 20_000, 60_000])
def test_a_decompression_bomb_is_told_by_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "upload").write_bytes(claiming(side, side))
    message = refusal(tmp_path / "upload")
    assert f"{side * side:,}" in message
    assert f"at most {MAX_PIXELS:,}" in message


@pytest.mark.parametrize("size", [(1, 1), (MIN_SIDE - 1, 400), (400, MIN_SIDE - 1)])
def test_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "upload", Image.new("RGB", size), "PNG")
    assert f"portrait has {size[0]} x {size[1]} pixels; each side needs at least {MIN_SIDE}" in refusal(path)


def test_the_smallest_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")
    assert read_image(path).size == (MIN_SIDE, MIN_SIDE)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "(0 bytes) is empty"),
        (b"a portrait of my aunt", "begins with the text 'a portrait of my aun'"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "begins with the text '<svg xmlns="),
        (b"%PDF-1.7\n", "looks like a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "begins with the text '%!PS-Adobe"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "looks like WAV sound"),
        (bytes(range(200, 256)), "begins with the bytes c8 c9 ca cb cc cd ce cf"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "upload").write_bytes(data)
    assert told in refusal(tmp_path / "upload")


def test_a_video_is_no_picture(tmp_path: Path) -> None:
    assert "looks like an MP4 video) is not a picture" in refusal(silent_video(tmp_path / "upload"))


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_is_never_worse_than_a_refusal(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"):
        whole = saved(tmp_path / form, scene(), form).read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for place in random.integers(0, random.choice([64, 400, len(data)]), size=4) % len(data):
                data[place] = random.integers(0, 256)
            (tmp_path / "upload").write_bytes(data)
            try:
                picture = read_image(tmp_path / "upload", name="portrait")
            except InputError as error:
                assert str(error).startswith("portrait")  # noqa: PT017
            else:
                assert picture.mode == "RGB"
