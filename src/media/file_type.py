"""What an uploaded file is, by its first bytes; uploads often have no name."""

from dataclasses import dataclass
from pathlib import Path

from src.errors import InputError, truncated_repr

HEAD_BYTES = 4096
EXCERPT_BYTES = 20
MATROSKA = b"\x1aE\xdf\xa3"
FLV, MPEG_PS, ASF = b"FLV\x01", b"\0\0\x01\xba", b"0&\xb2u\x8ef\xcf\x11"
# FFmpeg's names of containers of videos, by offset and magic bytes.
CONTAINERS = (
    (0, MATROSKA, "matroska"),
    (8, b"AVI ", "avi"),
    (0, FLV, "flv"),
    (0, ASF, "asf"),
    (0, MPEG_PS, "mpeg"),
    (28, b"\x80theora", "ogg"),
)
MIN_STREAMED_RIFF = 0x7FFFF000
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
TS_SYNC = 0x47
# Packets of MPEG transport streams: size, and offset of the sync byte.
TS_PACKETS = ((188, 0), (192, 4))
# Types of the first box of an MP4 or MOV file, and the brands of those that are images or audio.
MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1")
OTHER_BRANDS = (*HEIF_BRANDS, b"avif", b"avis", b"M4A ", b"M4B ")

# AVIF and HEIC files that hold a sequence of images.
SEQUENCES = (b"ftypavis", b"ftyphevc", b"ftyphevx", b"ftypmsf1")

# (offset, magic bytes, description)
SIGNATURES = (
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"WAVE", "WAV audio"),
    (0, b"fLaC", "FLAC audio"),
    (0, b"OggS", "Ogg audio"),
    (0, b"ID3", "MP3 audio"),
    (0, b"\xff\xfb", "MP3 audio"),
    (8, b"AIF", "AIFF audio"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypavis", "an animated AVIF image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypM4A", "M4A audio"),
    (4, b"ftyp", "an MP4 video"),
    (0, MATROSKA, "a Matroska or WebM video"),
    (8, b"AVI ", "an AVI video"),
    (0, FLV, "an FLV video"),
    (0, ASF, "a WMV video or WMA audio"),
    (0, MPEG_PS, "an MPEG video"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (8, b'{"', "a safetensors file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFile:
    """A non-empty file of the input `name`: its size in bytes and its first HEAD_BYTES bytes."""

    path: Path
    name: str
    size: int
    head: bytes

    @property
    def video_container(self) -> str | None:
        """FFmpeg's name of the container of a video, None for any other kind of file."""
        for offset, magic, container in CONTAINERS:
            if self.head[offset:].startswith(magic):
                return container
        is_ts = (set(self.head[offset::size]) == {TS_SYNC} for size, offset in TS_PACKETS if self.size >= 3 * size)
        if any(is_ts) and not self.head.startswith(b"GIF8"):
            return "mpegts"
        return "mov" if self.head[4:8] in MOV_BOXES and self.head[8:12] not in OTHER_BRANDS else None

    @property
    def animation_container(self) -> str | None:
        """FFmpeg's name of the container of an animated image that it reads; None for stills, and for WebP."""
        if self.head.startswith(b"GIF8") and b"NETSCAPE2.0" in self.head:
            return "gif"
        if self.head.startswith(b"\x89PNG") and b"acTL" in self.head.partition(b"IDAT")[0]:
            return "apng"
        return "mov" if self.head[4:12] in SEQUENCES else None

    @property
    def declared_size(self) -> int:
        """The size in bytes that the header of an AVI or ASF file declares; 0 for other files, and if it is unknown."""
        match self.video_container:
            case "avi":
                size = int.from_bytes(self.head[4:8], "little")
                return 8 + size if size < MIN_STREAMED_RIFF else 0
            case "asf" if ASF_PROPERTIES in self.head:
                start = self.head.index(ASF_PROPERTIES) + 40
                return int.from_bytes(self.head[start : start + 8], "little")
        return 0

    @property
    def is_heif(self) -> bool:
        """Whether the file is an image in the container of HEIC."""
        return self.head[4:8] == b"ftyp" and self.head[8:12] in HEIF_BRANDS

    def error(self, problem: str) -> InputError:
        """An error whose message begins with the input's name and a description of the file."""
        return InputError(f"{self.name}: {self} {problem}")

    def __str__(self) -> str:
        label = f"the file {self.path.name!r}" if self.path.suffix else "the file"
        return f"{label} ({self.size:,} bytes{_sniff(self.head)})"


def probe(path: Path | str, *, name: str) -> MediaFile:
    """Read the first bytes of a file. Raises InputError unless it is a regular file of at least one byte."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{name}: {path.name!r} is a folder; a file is needed")
    if not path.is_file():
        raise InputError(f"{name}: the file {path.name!r} does not exist; a file is needed")
    with path.open("rb") as file:
        media = MediaFile(path=path, name=name, size=path.stat().st_size, head=file.read(HEAD_BYTES))
    if media.size == 0:
        raise media.error("is empty; at least one byte is needed")
    return media


def local_path(value: Path | str, *, name: str, allowed: bool) -> Path:
    """The path of an input file. Cog turns uploads, URLs and data URIs into `Path`s; any other text stays `str`.

    Raises InputError for text unless the operator allows paths on the server.
    """
    if isinstance(value, str) and not allowed:
        raise InputError(
            f"{name} is {truncated_repr(value)}; an upload, an http or https URL or a data URI is needed "
            "(MULTITALK_LOCAL_FILES=1 lets the operator allow paths on the server)"
        )
    return Path(value)


def _sniff(head: bytes) -> str:
    """The type of a file by its magic bytes, else an excerpt: as text if it is text, else in hex."""
    for offset, magic, description in SIGNATURES:
        if head[offset:].startswith(magic):
            return f", looks like {description}"
    text = head[:EXCERPT_BYTES].decode("utf-8", errors="replace").rstrip("\ufffd")  # a character cut in two
    if not head:
        return ""
    if text and "\ufffd" not in text and all(letter.isprintable() or letter.isspace() for letter in text):
        return f", begins with the text {text!r}"
    return f", begins with the bytes {head[:8].hex(' ')}"
