"""Decoding of image files, and the error messages for files that are refused.

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
from src.media.file_type import probe
from src.media.image import KINDS, MAX_PIXELS, MIN_SIDE, TRANSPOSES, read_image
from src.media.images.decode import decode
from src.serving.request_warnings import collect_warnings
from tests.src.media.audio.recordings import silent_video

DATA = Path(__file__).parents[2] / "data"
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def patches() -> Image.Image:
    """Large flat patches, so that lossy formats keep them: red, green over blue, grey; 96 wide, 64 high."""
    colors = np.array([[RED, (0, 128, 0)], [BLUE, (90, 90, 90)]], np.uint8)
    return Image.fromarray(np.kron(colors, np.ones((32, 48, 1), np.uint8)))


def saved(path: Path, image: Image.Image, form: str, **options: Any) -> Path:
    image.save(path, format=form, **options)
    return path


def read(path: Path) -> Image.Image:
    """Decode in this process, which is faster than `read_image`."""
    size, parts = decode(probe(path, name="portrait"), background_color="white", kinds=KINDS)
    image, top = Image.new("RGB", size), 0
    for part in parts:
        image.paste(part, (0, top))
        top += part.height
    assert top == size[1]
    return image


def refusal(path: Path) -> str:
    """The message of the InputError, which names the input."""
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith("portrait")
    return str(caught.value)


def difference(image: Image.Image, expected: Image.Image) -> int:
    """The largest pixel difference away from the patches' borders."""
    assert (image.mode, image.size) == ("RGB", expected.size)
    gaps_HW3 = np.abs(np.asarray(image).astype(int) - np.asarray(expected.convert("RGB")))
    return int(max(gaps_HW3[y, x].max() for y in (8, 24, 40, 56) for x in (8, 40, 56, 88)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_formats_are_recognized_by_content(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "upload", patches(), form)
    assert difference(read_image(probe(path, name="portrait")), patches()) <= 8


def test_big_tiff(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", patches(), "TIFF", big_tiff=True, compression="tiff_deflate")
    assert difference(read(path), patches()) == 0


def test_tiled_tiff(tmp_path: Path) -> None:
    height, width, side = 64, 96, 32
    pixels_HW = (np.arange(height * width).reshape(height, width) % 251).astype(np.uint8)
    tiles = [pixels_HW[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side}
    table = b"".join(struct.pack("<HHIH2x", tag, 3, 1, value) for tag, value in tags.items())
    start = 8 + 2 + 12 * 10 + 4
    table += struct.pack("<HHII", 324, 4, len(tiles), start) + struct.pack("<HHII", 325, 4, len(tiles), start + 24)
    offsets = [start + 48 + side * side * number for number in range(len(tiles))]
    numbers = struct.pack("<12I", *offsets, *[side * side] * len(tiles))
    data = b"II*\0" + struct.pack("<IH", 8, 10) + table + bytes(4) + numbers + b"".join(t.tobytes() for t in tiles)
    (tmp_path / "upload").write_bytes(data)
    assert np.array_equal(np.asarray(read(tmp_path / "upload"))[..., 0], pixels_HW)


def test_avif_grid() -> None:
    """Two rows of three images of 64 x 64."""
    image = read(DATA / "grid.avif")
    assert image.size == (192, 128)
    assert np.abs(np.asarray(image, int) - (200, 30, 40)).max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "PA", "LAB"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = patches().convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    form = "TIFF" if mode in ("PA", "CMYK", "YCbCr", "LAB") else "PNG"
    expected = patches().convert("L") if mode in ("L", "LA") else patches()
    image = read(saved(tmp_path / "upload", image, form))
    if mode == "1":
        assert set(np.unique(np.asarray(image))) == {0, 255}
    else:
        assert difference(image, expected) <= {"P": 40, "LAB": 25}.get(mode, 3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", patches().convert("CMYK"), "JPEG", quality=95)
    assert difference(read(path), patches()) <= 4


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
def test_high_bit_depth_grayscale_is_scaled(tmp_path: Path, kind: str, white: float, form: str) -> None:
    ramp_HW = np.tile(np.linspace(0, 1, 256), (40, 1))
    path = saved(tmp_path / "upload", Image.fromarray((ramp_HW * white).astype(kind)), form)
    pixels_HW3 = np.asarray(read(path)).astype(int)
    assert pixels_HW3.shape == (40, 256, 3)
    assert np.abs(pixels_HW3 - np.arange(256)[None, :, None]).max() <= 1


def bit_packed_tiff(path: Path, values_HW: np.ndarray, bits: int, byte_order: str = "<", photometric: int = 1) -> Path:
    """An uncompressed gray TIFF with `bits` per sample, each row padded to whole bytes."""
    height, width = values_HW.shape
    digits = (values_HW[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    if bits == 16:
        pixels = values_HW.astype(f"{byte_order}u2").tobytes()
    else:
        pixels = np.packbits(digits.reshape(height, -1), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: height}
    entries = [(tag, 3, value) for tag, value in tags.items()] + [(279, 4, len(pixels))]
    table = b"".join(
        struct.pack(f"{byte_order}HHI{'H2x' if kind == 3 else 'I'}", tag, kind, 1, value)
        for tag, kind, value in entries
    )
    head = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}IH", 8, len(entries))
    path.write_bytes(head + table + bytes(4) + pixels)
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_is_scaled_by_its_bits(tmp_path: Path, bits: int, byte_order: str, photometric: int) -> None:
    ramp_HW = np.tile(np.linspace(0, 1, 256), (40, 1))
    values_HW = np.rint((ramp_HW if photometric else 1 - ramp_HW) * (2**bits - 1)).astype(int)
    pixels_HW3 = np.asarray(read(bit_packed_tiff(tmp_path / "upload", values_HW, bits, byte_order, photometric)))
    assert np.abs(pixels_HW3.astype(int) - np.arange(256)[None, :, None]).max() <= 1


def test_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.fromarray(np.full((40, 40), 200, np.uint16)), "PNG")
    assert read(path).getextrema() == ((1, 1),) * 3


def test_nan_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF")
    assert "NaN" in refusal(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All eight orientations decode to the same image, also in many parts."""
    monkeypatch.setattr("src.media.images.decode.PART_PIXELS", 700)
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = patches().transpose(TRANSPOSES[inverse]) if inverse in TRANSPOSES else patches()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "upload", stored, "JPEG", exif=exif, quality=95)
    assert difference(read(path), patches()) <= 4


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", patches(), "JPEG", exif=b"Exif\0\0not a header at all", quality=95)
    assert difference(read(path), patches()) <= 4


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_transparency_is_composited_over_white(tmp_path: Path, form: str) -> None:
    alpha_HW = np.full((64, 96), 255, np.uint8)
    alpha_HW[:32] = 0
    image = patches()
    image.putalpha(Image.fromarray(alpha_HW))
    expected = patches()
    expected.paste(WHITE, (0, 0, 96, 32))
    options = {"lossless": True} if form == "WEBP" else {}
    assert difference(read(saved(tmp_path / "upload", image, form, **options)), expected) <= 1


def test_half_transparent_red_becomes_pink(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.new("RGBA", (40, 40), (255, 0, 0, 128)), "PNG")
    assert read(path).getpixel((5, 5)) == (255, 127, 127)


def test_palette_with_transparent_entry(tmp_path: Path) -> None:
    image = patches().quantize(4)
    path = saved(tmp_path / "upload", image, "PNG", transparency=image.getpixel((5, 5)))
    image = read(path)
    assert image.getpixel((5, 5)) == WHITE
    assert image.getpixel((5, 40)) == BLUE


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animation_is_read_as_its_first_frame(tmp_path: Path, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    later = [Image.new("RGB", (96, 64), BLUE)]
    path = saved(tmp_path / "upload", patches(), form, save_all=True, append_images=later, **options)
    with collect_warnings() as messages:
        assert difference(read_image(probe(path, name="portrait")), patches()) <= 1
    assert messages == ["portrait is animated; its first frame is used"]


@pytest.mark.parametrize(
    ("form", "words"), [("AVIF", ["is animated"]), ("TIFF", ["has several pages"]), ("MPO", []), ("PNG", [])]
)
def test_further_images_of_a_file_are_named(tmp_path: Path, form: str, words: list[str]) -> None:
    options: dict[str, Any] = {} if form == "PNG" else {"save_all": True, "append_images": [patches()]}
    path = saved(tmp_path / "upload", Image.new("RGB", (96, 64), BLUE), form, **options)
    with collect_warnings() as messages:
        assert read(path).getpixel((5, 5)) == pytest.approx(BLUE, abs=3)
    assert [word for word in words if word not in messages[0]] == []
    assert len(messages) == len(words)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_truncated_image_is_refused(tmp_path: Path, form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    path = saved(tmp_path / "upload", noise, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(path)
    assert "damaged" in message
    assert "a JPEG, PNG" in message


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size but holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [9000, 20_000, 60_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "upload").write_bytes(png_header(side, side))
    message = refusal(tmp_path / "upload")
    assert f"{side * side:,}" in message
    assert f"at most {MAX_PIXELS:,}" in message


@pytest.mark.parametrize("size", [(1, 1), (MIN_SIDE - 1, 400), (400, MIN_SIDE - 1)])
def test_image_below_min_side_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "upload", Image.new("RGB", size), "PNG")
    assert f"portrait has {size[0]} x {size[1]} pixels; each side needs at least {MIN_SIDE}" in refusal(path)


def test_image_of_min_side_is_allowed(tmp_path: Path) -> None:
    path = saved(tmp_path / "upload", Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")
    assert read(path).size == (MIN_SIDE, MIN_SIDE)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "(0 bytes) is empty"),
        (b"a portrait of my aunt", "begins with the text 'a portrait of my aun'"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "begins with the text '<svg xmlns="),
        (b"%PDF-1.7\n", "looks like a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "begins with the text '%!PS-Adobe"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "looks like WAV audio"),
        (bytes(range(200, 256)), "begins with the bytes c8 c9 ca cb cc cd ce cf"),
    ],
)
def test_other_files_are_described_in_the_error(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "upload").write_bytes(data)
    assert expected in refusal(tmp_path / "upload")


def test_video_is_not_an_image(tmp_path: Path) -> None:
    assert "looks like an MP4 video) is not an image" in refusal(silent_video(tmp_path / "upload"))


def test_small_gif_is_not_a_transport_stream(tmp_path: Path) -> None:
    """Their packets begin with a G, and have 188 bytes."""
    path = saved(tmp_path / "upload", Image.new("P", (64, 64)), "GIF", comment=b"G" * 600)
    assert probe(path, name="portrait").video_container is None


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_raises_nothing_but_input_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"):
        whole = saved(tmp_path / form, patches(), form).read_bytes()
        for _ in range(20):
            data = bytearray(whole)
            for position in random.integers(0, random.choice([64, 400, len(data)]), size=4) % len(data):
                data[position] = random.integers(0, 256)
            (tmp_path / "upload").write_bytes(data)
            try:
                image = read(tmp_path / "upload")
            except InputError as error:
                assert str(error).startswith("portrait")  # noqa: PT017
            else:
                assert image.mode == "RGB"
