"""Files that are whole, and files that are not."""

from pathlib import Path

import pytest

from src.weights.integrity import CorruptFileError, check_format, sha256
from tests.src.weights.samples import safetensors, torch_file, write

# The flags of a zip entry in the directory, and those that call its name UTF-8.
FLAGS, UTF8 = b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x08"
SAFE, TORCH = safetensors(5000), torch_file(5000)


@pytest.mark.parametrize(
    ("name", "data", "checked"),
    [
        ("a.safetensors", SAFE, "header of 1 tensors"),
        ("a.pth", TORCH, "directory of 2 entries"),
        ("old.bin", b"\x80\x02rest", "size"),
        ("a.json", b"{}", "JSON"),
        ("large.json", b"[" + b"1," * 600_000 + b"1]\n", "end of JSON"),
        ("a.model", b"x", "size"),
    ],
)
def test_whole_files(tmp_path: Path, name: str, data: bytes, checked: str) -> None:
    assert check_format(write(tmp_path / name, data)) == checked


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.safetensors", SAFE[:-1], "bytes and declares"),
        ("a.safetensors", SAFE + b"x", "bytes and declares"),
        ("a.safetensors", SAFE[:20], "no safetensors header"),
        ("a.safetensors", b"<html>Not found</html>", "no safetensors header"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "no readable safetensors header"),
        ("a.safetensors", (9).to_bytes(8, "little") + b'{"x": {}}', "no readable safetensors header"),
        ("a.safetensors", bytes(5000), "no safetensors header"),
        ("a.pth", TORCH[:-30], "no whole zip directory"),
        ("a.pth", b"version https://git-lfs", "no whole zip directory"),
        ("a.json", b'{"a": ', "no JSON"),
        ("a.json", b"", "empty"),
        ("a.json", b"[" * 100_000, "no JSON"),
        ("a.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000, "no readable safetensors header"),
        ("a.pth", TORCH.replace(b"archive/data.pkl", b"archive\xff\xfe\xfd.pkl").replace(FLAGS, UTF8), "no whole zip"),
        ("large.json", b"[" + b"1," * 600_000, "does not end like one"),
        ("a.model", b"", "empty"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        check_format(write(tmp_path / name, data))


def test_a_flipped_bit_in_a_zip_shows_in_depth(tmp_path: Path) -> None:
    spoilt = bytearray(TORCH)
    spoilt[3000] ^= 1
    path = write(tmp_path / "a.pth", bytes(spoilt))
    check_format(path)
    with pytest.raises(CorruptFileError, match="another checksum"):
        check_format(path, deep=True)


def test_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256(write(tmp_path / "a", b"")) == empty
