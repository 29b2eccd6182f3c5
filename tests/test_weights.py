"""The command line of weights.py, the layouts it meets, and the page about it."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weights
from src.weights import ensure as fetching
from src.weights.manifest import Bundle, File
from src.weights.sources import BASE_URL_VARIABLE, REVISIONS_VARIABLE, SOURCES_VARIABLE, Sources
from tests.src.weights.samples import WAV2VEC, files_of, fill, tree, write
from wan.checkpoint import load_models
from wan.checkpoint.layout import find_speech_encoder
from wan.configs import ModelConfig
from weights import BUNDLES, DEFAULT_NAMES, MARKER, WeightsError, ensure, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python weights.py")
]
BASE = "Wan2.1-I2V-14B-480P"
OLD = ("Wan2.1_VAE.pth", "vit-huge-14.pth", "enc-bf16.pth", "multitalk.safetensors")  # kept elsewhere once
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, whatever a test does."""
    monkeypatch.setenv(SOURCES_VARIABLE, "none")


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """What an older package left: VAE and CLIP beside the folders, one marker at the root."""
    for name in DEFAULT_NAMES:
        fill(tmp_path, name)
    for name in ("Wan2.1_VAE.pth", CLIP):
        (tmp_path / BASE / name).rename(tmp_path / name)
    write(tmp_path / MARKER, b"done")
    return tmp_path


@pytest.mark.parametrize("name", BUNDLES)
def test_a_folder_filled_by_hand_is_used_as_it_stands(tmp_path: Path, name: str) -> None:
    for path, data in files_of(name).items():
        write(tmp_path / BUNDLES[name].folder / path, data)
    before = sorted(tmp_path.rglob("*"))
    ensure(tmp_path, [name])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_layout_of_older_packages(old_folder: Path) -> None:
    ensure(old_folder)
    for name in ("Wan2.1_VAE.pth", CLIP):
        assert (old_folder / BASE / name).read_bytes() == (old_folder / name).read_bytes()


def test_their_marker_is_not_believed(old_folder: Path) -> None:
    path = old_folder / "Wan2.1_VAE.pth"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"^Wan2.1-I2V-14B-480P lacks Wan2\.1_VAE\.pth and could not be fetched"):
        ensure(old_folder)


def test_without_hard_links(old_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    ensure(old_folder)
    assert os.readlink(old_folder / BASE / CLIP) == f"../{CLIP}"


def test_relative_links_and_linked_folders(tmp_path: Path) -> None:
    fill(tmp_path / "volume", BASE)
    fill(tmp_path / "volume", WAV2VEC)
    (tmp_path / "volume" / BASE / CLIP).rename(tmp_path / "volume" / "clip.pth")
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / BASE).symlink_to("../volume/" + BASE)
    (folder / WAV2VEC).symlink_to("../volume/" + WAV2VEC)
    (folder / CLIP).symlink_to("../volume/clip.pth")
    ensure(folder, [BASE, WAV2VEC])
    assert (folder / BASE / CLIP).read_bytes() == (folder / CLIP).read_bytes()


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "the folder")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "open", refuse_writing(Path.open))


def refuse_writing(reader: Callable[..., object]) -> Callable[..., object]:
    def open_file(path: Path, mode: str = "r", *values: object, **named: object) -> object:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return reader(path, mode, *values, **named)

    return open_file


def test_a_volume_that_is_read_only(old_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    ensure(old_folder)
    assert not (old_folder / BASE / CLIP).exists()


@dataclass(frozen=True)
class Volume:
    """The small model as an older package left it, where we may not write; its bundles, and what is to be read."""

    folder: Path
    bundles: dict[str, Bundle]
    weights: dict[str, Tensor]


def bundles_of(config: ModelConfig, folder: Path) -> dict[str, Bundle]:
    """The small model's files as bundles, with the places of older packages."""
    found = {}
    base = config.files.base
    for name in (base, config.files.audio, config.files.speech):
        paths = [path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*") if path.is_file()]
        files = (File(path=path, elsewhere=(path, f"{base}/{path}") if path.endswith(OLD) else ()) for path in paths)
        itself = next((path for path in paths if name == base and path.endswith(".safetensors")), None)
        found[name] = Bundle(name=name, folder=name, holds="", files=tuple(files), bytes=1, itself=itself)
    return found


@pytest.fixture
def old_volume(puppet: ModelConfig, puppet_folder: Path) -> Iterator[Volume]:
    files, user = puppet.files, os.geteuid()
    weights = load_models(puppet, puppet_folder, torch.device("cpu")).transformer.state_dict()
    bundles = bundles_of(puppet, puppet_folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(puppet_folder, Path(name) / "volume"))
        for file in (files.vae, files.image_encoder, files.text_encoder):
            (folder / files.base / file).rename(folder / file)
        (folder / files.audio / files.audio_weights).rename(folder / files.audio_weights)
        (folder / files.base / files.audio_weights).symlink_to(f"../{files.audio_weights}")
        write(folder / MARKER, b"done")
        everything = [path for path in (Path(name), folder, *folder.rglob("*")) if not path.is_symlink()]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if user == 0:
            os.seteuid(65534)  # nobody, to whom modes mean something
        try:
            yield Volume(folder, bundles, weights)
        finally:
            os.seteuid(user)
            for path in everything:
                path.chmod(0o755)


@pytest.mark.parametrize("given", ["the folder", "the base"])
def test_an_old_layout_that_is_read_only_is_found_complete_and_read(
    puppet: ModelConfig, old_volume: Volume, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be linked there, so fetching and reading must know the same places."""
    bundles = old_volume.bundles
    monkeypatch.setattr("src.weights.verify.BUNDLES", bundles)
    folder = old_volume.folder if given == "the folder" else old_volume.folder / puppet.files.base
    with pytest.raises(PermissionError):
        (folder / "x").touch()
    fetching.ensure(folder, bundles.values(), sources=Sources(names=()))
    read = load_models(puppet, folder, torch.device("cpu")).transformer.state_dict()
    assert all(torch.equal(read[name], old_volume.weights[name]) for name in old_volume.weights)
    assert (find_speech_encoder(puppet, folder) / "config.json").is_file()


def test_a_volume_that_is_read_only_and_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    with pytest.raises(WeightsError, match=r"written to \(Read-only .* lacks .*config\.json, .*more: fetch"):
        ensure(tmp_path)


def test_audio_layers_that_were_linked_into_the_base_by_hand(tmp_path: Path) -> None:
    fill(tmp_path, BASE)
    write(tmp_path / BASE / "multitalk.safetensors", files_of("MeiGen-MultiTalk")["multitalk.safetensors"])
    ensure(tmp_path, [BASE, "MeiGen-MultiTalk"])
    assert (tmp_path / "MeiGen-MultiTalk" / "multitalk.safetensors").is_file()


def test_a_folder_that_is_the_base_bundle_itself(tmp_path: Path) -> None:
    fill(tmp_path, BASE)
    ensure(tmp_path / BASE, [BASE])
    assert tree(tmp_path / BASE) == files_of(BASE)


def test_the_neighbours_of_a_base_bundle(tmp_path: Path) -> None:
    """Whole ones are used where they are; a second name would outlive their next version."""
    for name in DEFAULT_NAMES:
        fill(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    ensure(tmp_path / BASE)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / WAV2VEC / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"base lacks config\.json, preprocessor_config\.json, model"):
        ensure(tmp_path / BASE)


def test_bundles_go_into_a_base_bundle_that_is_given(tmp_path: Path) -> None:
    """Beside it might be another volume, or one that nobody keeps."""
    fill(tmp_path, BASE)
    with pytest.raises(WeightsError, match=rf"Put the files into .*/{BASE}/MeiGen-MultiTalk, or"):
        ensure(tmp_path / BASE, [BASE, "MeiGen-MultiTalk"])


def test_a_lora_beside_everything_is_found(tmp_path: Path) -> None:
    assert weights.locate(tmp_path, "FusionX") is None
    (path,) = files_of("FusionX")
    file = write(tmp_path / Path(path).name, files_of("FusionX")[path])
    assert weights.locate(tmp_path, "FusionX") == file


def test_pack_of_a_folder_of_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "w", WAV2VEC)
    fill(tmp_path / "w", BASE)
    write(tmp_path / "w" / WAV2VEC / "notes.txt", b"mine")
    (tmp_path / "w" / BASE / CLIP).unlink()
    assert main(["pack", str(tmp_path / "w"), str(tmp_path / "tars")]) == 0
    assert [path.name for path in (tmp_path / "tars").iterdir()] == [f"{WAV2VEC}.tar"]
    shutil.unpack_archive(tmp_path / "tars" / f"{WAV2VEC}.tar", tmp_path / "again", filter="data")
    assert tree(tmp_path / "again") == {f"{WAV2VEC}/{name}": data for name, data in files_of(WAV2VEC).items()}
    assert main(["pack", str(tmp_path / "tars"), str(tmp_path / "x")]) == 1


def test_a_converted_folder_that_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "converted.json", b'{"sha256": {"config.json": "00", "gone.json": "00"}}')
    write(tmp_path / "config.json", b"{}")
    assert main(["verify", str(tmp_path)]) == 1
    assert "gone.json: missing" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), "--deep"]) == 1
    assert "config.json: broken, 2 bytes, has SHA-256" in capsys.readouterr().out
    for text in (b"[]", b"{", b'{"sha256": 5}'):
        write(tmp_path / "converted.json", text)
        assert main(["verify", str(tmp_path)]) == 1
    assert main(["pack", str(tmp_path), str(tmp_path / "x")]) == 1


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such weights: Wan3; there are Wan2\.1"):
        ensure(tmp_path, ["Wan3"])


def test_the_module_brings_nothing_heavy() -> None:
    heavy = ("torch", "wan", "huggingface_hub", "transformers", "tqdm")
    program = f"import sys, weights; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1 if line[0] == "*" else 0] for line in lines[:-1]] == list(BUNDLES)
    assert {line.split()[1] for line in lines[:-1] if line[0] == "*"} == set(DEFAULT_NAMES)


def test_download_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, WAV2VEC)
    assert main(["download", WAV2VEC, "--dest", str(tmp_path)]) == 0
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([WAV2VEC], 1, r"error: chinese-wav2vec2-base lacks config\.json"),
        ([WAV2VEC, "--source", "multitalk"], 1, "error: .*refused, .* times in a row"),
        ([WAV2VEC, "--source", "ftp"], 2, "'ftp' is not one of multitalk, huggingface, none"),
        (["Wan3"], 2, "error: no such weights: Wan3"),
    ],
)
def test_a_download_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.setenv(BASE_URL_VARIABLE, "http://127.0.0.1:1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("src.weights.retry.wait_random_exponential", lambda **_: lambda state: 0.0)
    assert main(["download", *arguments, "--dest", str(tmp_path / "w")]) == status
    (message,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("error")]
    assert re.search(words, message)
    assert "\n" not in message


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "holds none of" in capsys.readouterr().out
    fill(tmp_path, WAV2VEC)
    assert main(["verify", str(tmp_path)]) == 0
    assert "chinese-wav2vec2-base: complete" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), BASE]) == 1
    assert "files missing or broken" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), "--deep"]) == 0
    assert "model.safetensors: ok, 4,1" in (out := capsys.readouterr().out)
    assert "no hash known to check the content" in out
    path = tmp_path / WAV2VEC / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", str(tmp_path)]) == 1
    assert "model.safetensors: broken, 4,1" in capsys.readouterr().out


def test_a_smaller_file_than_the_published_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, BASE)
    assert main(["verify", str(tmp_path)]) == 0
    assert "smaller than the published 507,609,880 bytes: another dtype?" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_understood(command: str) -> None:
    options = weights.parser().parse_args(shlex.split(command, comments=True)[2:])
    assert set(getattr(options, "names", [])) <= BUNDLES.keys()


def test_the_page_names_every_variable_and_every_bundle() -> None:
    assert len(COMMANDS) >= 6
    for word in (BASE_URL_VARIABLE, SOURCES_VARIABLE, REVISIONS_VARIABLE, "MODEL_PATH", *BUNDLES):
        assert f"`{word}`" in PAGE


def test_convert_and_pack_from_the_command_line(puppet_folder: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    arguments = ["convert", str(puppet_folder), str(converted), "--model", "multitalk-puppet"]
    assert main(arguments) == 0
    assert (converted / "converted.json").is_file()
    assert main(["verify", str(converted), "--deep"]) == 0
    assert main(["pack", str(converted), str(tmp_path / "tars")]) == 0
    with tarfile.open(tmp_path / "tars" / "converted.tar") as packed:
        assert "converted/converted.json" in packed.getnames()
    assert main(["convert", str(puppet_folder), str(tmp_path / "x"), "--model", "multitalk-15B"]) == 1


def test_a_lora_that_came_with_the_model_needs_no_manifest(tmp_path: Path) -> None:
    assert weights.locate_lora(tmp_path, "distilled") is None
    own = write(tmp_path / "loras" / "distilled.safetensors", b"any")
    assert weights.locate_lora(tmp_path, "distilled") == own
    (path,) = files_of("FusionX")
    assert weights.locate_lora(tmp_path, "FusionX") is None
    installed = write(tmp_path / Path(path).name, files_of("FusionX")[path])
    assert weights.locate_lora(tmp_path, "FusionX") == installed
