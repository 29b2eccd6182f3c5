"""Detect truncated or corrupt files by their format.

A safetensors header declares the file's length, a zip file (PyTorch's format) ends with its directory, and truncated
JSON does not parse.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

CHUNK_BYTES = 1 << 22
MAX_HEADER_BYTES = 100_000_000
MAX_PARSED_JSON_BYTES = 1 << 20
PICKLE_MAGIC = b"\x80\x02"


class CorruptFileError(ValueError):
    """A file is truncated or corrupt; the message is a predicate of the file."""


def check_format(path: Path, *, deep: bool = False) -> str:
    """Check a file by its format and return what was checked. Raises CorruptFileError.

    `deep` reads the whole file where the format has checksums or must be parsed.
    """
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
    """Compare the length that a safetensors header declares with the file's."""
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
    """Read the zip directory of a PyTorch file; with `deep`, verify the checksum of every entry."""
    with path.open("rb") as file:
        if file.read(2) == PICKLE_MAGIC:
            return "size"  # PyTorch's format before 2020: a plain pickle, which has no declared length
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            bad = archive.testzip() if deep else None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError) as error:
        raise CorruptFileError(f"has no complete zip directory ({error})") from error
    if bad is not None:
        raise CorruptFileError(f"has a wrong checksum in {bad}")
    return f"checksums of {len(entries)} entries" if deep else f"directory of {len(entries)} entries"


def check_json(path: Path, *, deep: bool) -> str:
    """Parse a JSON file; of a large one (a tokenizer) read only the end, unless `deep`."""
    if path.stat().st_size > MAX_PARSED_JSON_BYTES and not deep:
        with path.open("rb") as file:
            file.seek(-64, 2)
            if not file.read().rstrip().endswith((b"}", b"]")):
                raise CorruptFileError("is not valid JSON (it does not end with a bracket)")
        return "end of JSON"
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"is not valid JSON ({error})") from error
    return "JSON"


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
