"""A file somebody sent: that it is there, and how to speak of it.

Uploads often arrive without a name, so messages describe them by their size and first bytes.
"""

from pathlib import Path

from src.errors import InputError

HEAD_BYTES = 64
EXCERPT = 20

# (offset, bytes there, what such a file is)
SIGNATURES = (
    (0, b"\x89PNG\r\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"WAVE", "WAV sound"),
    (0, b"fLaC", "FLAC sound"),
    (0, b"OggS", "Ogg sound"),
    (0, b"ID3", "MP3 sound"),
    (0, b"\xff\xfb", "MP3 sound"),
    (8, b"AIF", "AIFF sound"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypM4A", "M4A sound"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (8, b"AVI ", "an AVI video"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)


def local_path(value: Path | str, *, name: str, allowed: bool) -> Path:
    """Where an input file lies. Cog turns uploads, URLs and data URIs into paths; any other text stays text.

    Raises InputError for text unless the operator allows paths on this machine.
    """
    if isinstance(value, str) and not allowed:
        raise InputError(
            f"{name} is {value[:100]!r}; an upload, an http or https URL or a data URI is needed "
            "(MULTITALK_LOCAL_FILES=1 lets the operator allow paths on the server)"
        )
    return Path(value)


def require_file(path: Path, *, name: str) -> None:
    """Raises InputError when `path` is no file that can be read, or an empty one."""
    if path.is_dir():
        raise InputError(f"{name}: {path.name!r} is a folder; a file is needed")
    if not path.is_file():
        raise InputError(f"{name}: the file {path.name!r} does not exist; a file is needed")
    if path.stat().st_size == 0:
        raise InputError(f"{name}: {describe_file(path)} is empty; at least one byte is needed")


def read_head(path: Path, count: int = HEAD_BYTES) -> bytes:
    """The first `count` bytes of a file, fewer when it is shorter."""
    with path.open("rb") as file:
        return file.read(count)


def describe_file(path: Path) -> str:
    """What a file is called, how large it is and what it looks like, for an error message."""
    called = f"the file {path.name!r}" if path.suffix else "the file"
    return f"{called} ({path.stat().st_size:,} bytes{_sniff(read_head(path))})"


def _sniff(head: bytes) -> str:
    """The kind of file that begins with `head`, else an excerpt, as text where it is text, else in hex."""
    for offset, mark, kind in SIGNATURES:
        if head[offset:].startswith(mark):
            return f", looks like {kind}"
    text = head[:EXCERPT].decode("utf-8", errors="replace").rstrip("\ufffd")  # a letter cut in two
    if not head:
        return ""
    if text and "\ufffd" not in text and all(letter.isprintable() or letter.isspace() for letter in text):
        return f", begins with the text {text!r}"
    return f", begins with the bytes {head[:8].hex(' ')}"
