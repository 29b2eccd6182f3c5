"""Small weights of valid formats, and tars of them."""

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

from src.weights.manifest import BUNDLES, Bundle, File, HubRepo

WAV2VEC = "chinese-wav2vec2-base"


def safetensors(size: int = 4096, seed: int = 0) -> bytes:
    """A safetensors file of one tensor of `size` random bytes."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def torch_file(size: int = 4096, seed: int = 0) -> bytes:
    """A zip file as PyTorch writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", random.Random(seed).randbytes(size))
    return file.getvalue()


def content(name: str, size: int = 4096) -> bytes:
    """Valid content for a file name."""
    match Path(name).suffix:
        case ".safetensors":
            return safetensors(size)
        case ".pth" | ".bin":
            return torch_file(size)
        case ".json":
            return b"{}"
        case _:
            return b"content"


def tar(files: dict[str, bytes], folder: str = "") -> bytes:
    """An uncompressed tar of files, optionally in a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def files_of(name: str, size: int = 4096) -> dict[str, bytes]:
    """Valid content for the required files of a published bundle."""
    return {file.path: content(file.path, size) for file in BUNDLES[name].required}


def fill(folder: Path, name: str) -> None:
    """Write a published bundle's files into a folder, without a marker."""
    for path, data in files_of(name).items():
        write(folder / name / path, data)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def bundle(name: str = "tiny", **values: object) -> Bundle:
    """A bundle of three small files."""
    defaults: dict[str, object] = {
        "folder": name,
        "description": "a test",
        "bytes": 20_000,
        "tar": f"{name}.tar",
        "hub": HubRepo(repository=f"somebody/{name}"),
        "files": (File(path="config.json"), File(path="a.safetensors"), File(path="deep/b.safetensors")),
    }
    return Bundle(name=name, **{**defaults, **values})  # type: ignore[arg-type]


def tiny_files(size: int = 4096) -> dict[str, bytes]:
    """The content of `bundle()`."""
    return {
        "config.json": b'{"a": 1}',
        "a.safetensors": safetensors(size, 1),
        "deep/b.safetensors": safetensors(size, 2),
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder except markers, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("download_complete")
    }


def list_dir(folder: Path) -> list[str]:
    """The names in a folder except the lock file."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".download.lock")
