"""Valid files, and truncated or corrupt ones."""

from pathlib import Path

import pytest

from src.weights.integrity import CorruptFileError, check_format, sha256
from tests.src.weights.samples import safetensors, torch_file, write

# The flags of a zip directory entry, and the same with the bit that declares its name UTF-8.
FLAGS, UTF8 = b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x08"
SAFE, TORCH = safetensors(5000), torch_file(5000)
VALID = [
    ("a.safetensors", SAFE, "header of 1 tensors"),
    ("a.pth", TORCH, "directory of 2 entries"),
    ("old.bin", b"\x80\x02rest", "size"),
    ("a.json", b"{}", "JSON"),
    ("large.json", b"[" + b"1," * 600_000 + b"1]\n", "end of JSON"),
    ("a.model", b"x", "size"),
]
INVALID = [
    ("a.safetensors", SAFE[:-1]),
    ("a.safetensors", SAFE + b"x"),
    ("a.safetensors", SAFE[:20]),
    ("a.safetensors", b"<html>Not found</html>"),
    ("a.safetensors", (2).to_bytes(8, "little") + b"[]"),
    ("a.safetensors", (9).to_bytes(8, "little") + b'{"x": {}}'),
    ("a.safetensors", bytes(5000)),
    ("a.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000),
    ("a.pth", TORCH[:-30]),
    ("a.pth", b"version https://git-lfs"),
    ("a.pth", TORCH.replace(b"archive/data.pkl", b"archive\xff\xfe\xfd.pkl").replace(FLAGS, UTF8)),
    ("a.json", b'{"a": '),
    ("a.json", b""),
    ("a.json", b"[" * 100_000),
    ("large.json", b"[" + b"1," * 600_000),
    ("a.model", b""),
]


@pytest.mark.parametrize(("name", "data", "checked"), VALID)
def test_valid_files(tmp_path: Path, name: str, data: bytes, checked: str) -> None:
    assert check_format(write(tmp_path / name, data)) == checked


@pytest.mark.parametrize(("name", "data"), INVALID)
def test_invalid_files(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        check_format(write(tmp_path / name, data))


def test_deep_check_finds_a_changed_bit_in_a_zip(tmp_path: Path) -> None:
    data = bytearray(TORCH)
    data[3000] ^= 1
    path = write(tmp_path / "a.pth", bytes(data))
    check_format(path)
    with pytest.raises(CorruptFileError):
        check_format(path, deep=True)


def test_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256(write(tmp_path / "a", b"")) == empty
