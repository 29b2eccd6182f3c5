"""Fetching weights, with a stand-in for pget: no network."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import weights
from weights import BUNDLES, MARKER, WeightsError, ensure

ROOT = Path(__file__).parents[1]
WAV2VEC = "chinese-wav2vec2-base"
VERSION = 'if [ "$1" = version ]; then echo "pget Version 0.11.0 - Build Time 2025-01-01"; exit 0; fi\n'
UNPACK = 'mkdir -p "$3"; cd "$3"; touch config.json preprocessor_config.json model.safetensors\n'


@pytest.fixture
def install_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Installer":
    return Installer(tmp_path / "bin", monkeypatch)


class Installer:
    """Puts a shell script named pget on PATH; each download leaves a line in `calls`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.program, self.calls = folder / "pget", folder / "calls"
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def __call__(self, body: str, version: str = VERSION) -> None:
        self.program.write_text(f'#!/bin/sh\n{version}echo "$@" >> {self.calls}\n{body}')
        self.program.chmod(0o755)

    def count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


def fill(folder: Path, name: str) -> None:
    for alternatives in BUNDLES[name].files:
        file = folder / name / alternatives[-1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name != ".download.lock"]


def test_a_bundle_is_fetched_once(tmp_path: Path, install_pget: Installer) -> None:
    install_pget(UNPACK)
    ensure(tmp_path / "w", [WAV2VEC])
    ensure(tmp_path / "w", [WAV2VEC])
    assert install_pget.count() == 1
    assert f"{weights.BASE_URL}/{WAV2VEC}.tar" in install_pget.calls.read_text()
    assert (tmp_path / "w" / WAV2VEC / MARKER).is_file()
    assert leftovers(tmp_path / "w") == [WAV2VEC]


def test_a_tar_that_holds_its_folder(tmp_path: Path, install_pget: Installer) -> None:
    install_pget(UNPACK.replace('"$3"', f'"$3/{WAV2VEC}"'))
    ensure(tmp_path / "w", [WAV2VEC])
    assert (tmp_path / "w" / WAV2VEC / "config.json").is_file()
    assert leftovers(tmp_path / "w") == [WAV2VEC]


def test_another_base_url(tmp_path: Path, install_pget: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    install_pget(UNPACK)
    monkeypatch.setenv(weights.BASE_URL_VARIABLE, "https://example.org/mirror/")
    ensure(tmp_path / "w", [WAV2VEC])
    assert f"-xf https://example.org/mirror/{WAV2VEC}.tar " in install_pget.calls.read_text()


@pytest.mark.parametrize("name", BUNDLES)
def test_a_folder_filled_by_hand_is_used(tmp_path: Path, install_pget: Installer, name: str) -> None:
    install_pget("exit 1\n")
    fill(tmp_path, name)
    ensure(tmp_path, [name])
    assert install_pget.count() == 0
    assert not (tmp_path / name / MARKER).exists()


def test_a_folder_filled_in_part_is_left_alone(tmp_path: Path, install_pget: Installer) -> None:
    install_pget(UNPACK)
    fill(tmp_path, WAV2VEC)
    (tmp_path / WAV2VEC / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors or pytorch_model\.bin: add"):
        ensure(tmp_path, [WAV2VEC])
    assert (tmp_path / WAV2VEC / "config.json").exists()
    assert install_pget.count() == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('mkdir -p "$3"; touch "$3/config.json"\n', "without preprocessor_config.json"),
        (UNPACK + "exit 2\n", "status 2"),
        ("exit 0\n", "without config.json"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path: Path, install_pget: Installer, body: str, words: str) -> None:
    install_pget(body)
    with pytest.raises(WeightsError, match=words):
        ensure(tmp_path / "w", [WAV2VEC])
    assert leftovers(tmp_path / "w") == []
    install_pget(UNPACK)
    ensure(tmp_path / "w", [WAV2VEC])
    assert leftovers(tmp_path / "w") == [WAV2VEC]


def test_what_a_killed_run_left_is_not_taken_for_weights(tmp_path: Path, install_pget: Installer) -> None:
    install_pget(UNPACK)
    stale = tmp_path / f".{WAV2VEC}.partial"
    stale.mkdir()
    (stale / "from-before").touch()
    ensure(tmp_path, [WAV2VEC])
    assert not (tmp_path / WAV2VEC / "from-before").exists()


def test_a_download_without_end_is_ended(tmp_path: Path, install_pget: Installer) -> None:
    install_pget(UNPACK + f"sleep 30; touch {tmp_path}/late\n")
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"within 0\.3 s"):
        ensure(tmp_path / "w", [WAV2VEC], timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert leftovers(tmp_path / "w") == []


def test_two_processes_download_once(tmp_path: Path, install_pget: Installer) -> None:
    install_pget("sleep 0.3\n" + UNPACK)
    threads = [threading.Thread(target=ensure, args=(tmp_path / "w", [WAV2VEC])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert install_pget.count() == 1


def test_without_pget_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"pget.* is not installed: install it from https://github"):
        ensure(tmp_path / "w", [WAV2VEC])


@pytest.mark.parametrize("version", ['echo "usage: pget URL"; exit 0\n', "exit 1\n"])
def test_another_pget_is_refused(tmp_path: Path, install_pget: Installer, version: str) -> None:
    install_pget(UNPACK, version)
    with pytest.raises(WeightsError, match="another program than Replicate's pget"):
        ensure(tmp_path / "w", [WAV2VEC])


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such weights.*Wan3"):
        ensure(tmp_path, ["Wan3"])


def test_the_module_needs_no_torch() -> None:
    program = "import sys, weights; sys.exit(any(name in sys.modules for name in ('torch', 'wan', 'src')))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
