"""Whether a file is whole, as far as its format says so.

A checkpoint that was cut short shows it: safetensors declare their length at the head, zip files (what PyTorch saves)
end in a directory of their contents, JSON does not parse.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

CHUNK_BYTES = 1 << 22
MAX_HEADER_BYTES = 100_000_000
LARGE_JSON = 1 << 20
PICKLE_MAGIC = b"\x80\x02"


class CorruptFileError(ValueError):
    """A file is not whole; the message says how that shows."""


def check_format(path: Path, *, deep: bool = False) -> str:
    """What was checked of a file; CorruptFileError if it is damaged. `deep` reads all of it where that helps."""
    if not path.stat().st_size:
        raise CorruptFileError("is empty")
    match path.suffix:
        case ".safetensors":
            return check_safetensors(path)
        case ".pth" | ".pt" | ".bin":
            return check_torch(path, deep=deep)
        case ".json":
            return check_json(path, deep=deep)
        case _:
            return "size"


def check_safetensors(path: Path) -> str:
    """Compare the header of a safetensors file with the file's length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise CorruptFileError(f"has no safetensors header ({size:,} bytes)")
        text = file.read(length)
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        declared = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CorruptFileError("has no readable safetensors header") from error
    if declared != size:
        raise CorruptFileError(f"has {size:,} bytes and declares {declared:,}")
    return f"header of {len(ends)} tensors"


def check_torch(path: Path, *, deep: bool) -> str:
    """Read the zip directory of a PyTorch file, and with `deep` the checksum of every entry."""
    with path.open("rb") as file:
        if file.read(2) == PICKLE_MAGIC:
            return "size"  # the format before 2020: a bare pickle, which does not say how long it is
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            bad = archive.testzip() if deep else None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError) as error:
        raise CorruptFileError(f"has no whole zip directory ({error})") from error
    if bad is not None:
        raise CorruptFileError(f"has another checksum than declared in {bad}")
    return f"checksums of {len(entries)} entries" if deep else f"directory of {len(entries)} entries"


def check_json(path: Path, *, deep: bool) -> str:
    """Parse a JSON file; of a large one (a tokenizer) look at the end only, unless `deep`."""
    if path.stat().st_size > LARGE_JSON and not deep:
        with path.open("rb") as file:
            file.seek(-64, 2)
            if not file.read().rstrip().endswith((b"}", b"]")):
                raise CorruptFileError("is no JSON (it does not end like one)")
        return "end of JSON"
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"is no JSON ({error})") from error
    return "JSON"


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
