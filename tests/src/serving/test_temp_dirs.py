"""Temporary folders that a live process owns, and those that a killed one left."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.serving.temp_dirs import OwnedDir, compiler_cache, owned_dir, remove_orphans

HOLD = """
import sys
from pathlib import Path
from src.serving.temp_dirs import OwnedDir
folder = OwnedDir("test-", Path(sys.argv[1]))
(folder.path / "file").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


def start_owner(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder of its own, which it keeps until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_only_the_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    live, live_path = start_owner(tmp_path)
    killed, killed_path = start_owner(tmp_path)
    (tmp_path / "other").mkdir()
    killed.kill()
    killed.communicate()
    try:
        assert remove_orphans(tmp_path) == [killed_path]
        assert not killed_path.exists()
        assert (live_path / "file").exists()
        assert (tmp_path / "other").exists()
    finally:
        live.kill()
        live.communicate()


def test_own_folder_is_kept_until_it_is_removed(tmp_path: Path) -> None:
    folder = OwnedDir("test-", tmp_path)
    assert remove_orphans(tmp_path) == []
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


def test_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    try:
        with owned_dir("test-", tmp_path) as path:
            (path / "file").write_text("x")
            raise KeyError
    except KeyError:
        pass
    assert list(tmp_path.iterdir()) == []


def test_clear_keeps_the_named_entries(tmp_path: Path) -> None:
    folder = OwnedDir("test-", tmp_path)
    for name in ("kept", "deleted"):
        (folder.path / name).write_text("x")
    (folder.path / "subfolder").mkdir()
    folder.clear(keep=frozenset({folder.path / "kept"}))
    assert [path.name for path in folder.path.iterdir()] == ["kept"]
    folder.remove()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "multitalk-link").symlink_to(target)
    assert remove_orphans(tmp_path) == []
    assert target.exists()


def test_the_compilers_cache_stays_in_the_shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert Path(compiler_cache()["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/volume/cache")
    assert compiler_cache() == {"TORCHINDUCTOR_CACHE_DIR": "/volume/cache"}
