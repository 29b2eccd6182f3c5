"""The command line of weights.py, layouts of older packages, and the commands in docs/weights.md."""

import errno
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weights
from src.weights.ensure import ensure as ensure_bundles
from src.weights.manifest import Bundle, File
from src.weights.sources import BASE_URL_VARIABLE, SOURCES_VARIABLE, Sources
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
LEGACY_SUFFIXES = ("Wan2.1_VAE.pth", "vit-huge-14.pth", "enc-bf16.pth", "multitalk.safetensors")
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test uses the network."""
    monkeypatch.setenv(SOURCES_VARIABLE, "none")


@pytest.fixture
def legacy_folder(tmp_path: Path) -> Path:
    """The layout of an older package: VAE and CLIP beside the folders, one marker at the root."""
    for name in DEFAULT_NAMES:
        fill(tmp_path, name)
    for name in ("Wan2.1_VAE.pth", CLIP):
        (tmp_path / BASE / name).rename(tmp_path / name)
    write(tmp_path / MARKER, b"done")
    return tmp_path


@pytest.mark.parametrize("name", BUNDLES)
def test_complete_folder_without_markers_is_not_changed(tmp_path: Path, name: str) -> None:
    for path, data in files_of(name).items():
        write(tmp_path / BUNDLES[name].folder / path, data)
    before = sorted(tmp_path.rglob("*"))
    ensure(tmp_path, [name])
    assert sorted(tmp_path.rglob("*")) == before


def test_legacy_files_are_linked(legacy_folder: Path) -> None:
    ensure(legacy_folder)
    for name in ("Wan2.1_VAE.pth", CLIP):
        assert (legacy_folder / BASE / name).samefile(legacy_folder / name)


def test_legacy_marker_is_not_believed(legacy_folder: Path) -> None:
    path = legacy_folder / "Wan2.1_VAE.pth"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"^Wan2.1-I2V-14B-480P lacks Wan2\.1_VAE\.pth and could not be fetched"):
        ensure(legacy_folder)


def test_symbolic_links_where_hard_links_fail(legacy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    ensure(legacy_folder)
    assert os.readlink(legacy_folder / BASE / CLIP) == f"../{CLIP}"


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


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which nothing can be created."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "the folder")

    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr(Path, "touch", fail)


def test_complete_legacy_folder_on_a_read_only_volume(legacy_folder: Path, read_only: None) -> None:
    ensure(legacy_folder)
    assert not (legacy_folder / BASE / CLIP).exists()


@dataclass(frozen=True)
class Volume:
    """The small model in a legacy layout without write permission, its bundles, and the tensors to read."""

    folder: Path
    bundles: dict[str, Bundle]
    weights: dict[str, Tensor]


def bundles_of(config: ModelConfig, folder: Path) -> dict[str, Bundle]:
    """The small model's files as bundles, with legacy paths."""
    bundles = {}
    base = config.files.base
    for name in (base, config.files.audio, config.files.speech):
        paths = [path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*") if path.is_file()]
        files = tuple(
            File(path=path, legacy_paths=(path, f"{base}/{path}") if path.endswith(LEGACY_SUFFIXES) else ())
            for path in paths
        )
        first = next((path for path in paths if name == base and path.endswith(".safetensors")), None)
        bundles[name] = Bundle(name=name, folder=name, description="", files=files, bytes=1, identified_by=first)
    return bundles


@pytest.fixture
def read_only_volume(puppet: ModelConfig, puppet_folder: Path) -> Iterator[Volume]:
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
        paths = [path for path in (Path(name), folder, *folder.rglob("*")) if not path.is_symlink()]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if user == 0:
            os.seteuid(65534)  # nobody: root ignores modes
        try:
            yield Volume(folder, bundles, weights)
        finally:
            os.seteuid(user)
            for path in paths:
                path.chmod(0o755)


@pytest.mark.parametrize("model_path", ["root", "base"])
def test_read_only_legacy_layout_is_complete_and_loads(
    puppet: ModelConfig, read_only_volume: Volume, model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be linked there, so `ensure` and the loader must know the same legacy paths."""
    bundles = read_only_volume.bundles
    monkeypatch.setattr("src.weights.verify.BUNDLES", bundles)
    folder = read_only_volume.folder / ("" if model_path == "root" else puppet.files.base)
    with pytest.raises(PermissionError):
        (folder / "x").touch()
    ensure_bundles(folder, bundles.values(), sources=Sources(names=()))
    weights = load_models(puppet, folder, torch.device("cpu")).transformer.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in read_only_volume.weights.items())
    assert (find_speech_encoder(puppet, folder) / "config.json").is_file()


def test_incomplete_folder_on_a_read_only_volume(tmp_path: Path, read_only: None) -> None:
    with pytest.raises(WeightsError, match=r"written to \(Read-only .* lacks .*config\.json, .*more: fetch"):
        ensure(tmp_path)


def test_audio_layers_in_the_base_folder_are_linked(tmp_path: Path) -> None:
    fill(tmp_path, BASE)
    write(tmp_path / BASE / "multitalk.safetensors", files_of("MeiGen-MultiTalk")["multitalk.safetensors"])
    ensure(tmp_path, [BASE, "MeiGen-MultiTalk"])
    assert (tmp_path / "MeiGen-MultiTalk" / "multitalk.safetensors").is_file()


def test_folder_that_is_the_base_bundle(tmp_path: Path) -> None:
    fill(tmp_path, BASE)
    ensure(tmp_path / BASE, [BASE])
    assert tree(tmp_path / BASE) == files_of(BASE)


def test_complete_siblings_of_the_base_bundle_are_used(tmp_path: Path) -> None:
    """They are not linked: a link would outlive their next version."""
    for name in DEFAULT_NAMES:
        fill(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    ensure(tmp_path / BASE)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / WAV2VEC / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"base lacks config\.json, preprocessor_config\.json, model"):
        ensure(tmp_path / BASE)


def test_new_bundles_go_below_the_base_bundle(tmp_path: Path) -> None:
    """The parent of MODEL_PATH may be another volume, or a temporary one."""
    fill(tmp_path, BASE)
    with pytest.raises(WeightsError, match=rf"Put the files into .*/{BASE}/MeiGen-MultiTalk, or"):
        ensure(tmp_path / BASE, [BASE, "MeiGen-MultiTalk"])


def test_lora_at_a_legacy_path_is_found(tmp_path: Path) -> None:
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


def test_damaged_converted_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_download_says_which_files_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in DEFAULT_NAMES:
        fill(tmp_path, name)
    write(tmp_path / "loras" / "style.safetensors", b"x")
    assert main(["download", "--dest", str(tmp_path)]) == 0
    assert "also has" not in capsys.readouterr().out
    for name in ("vae/wan_2.1_vae.safetensors", "wan2.1-i2v-14b-480p-Q4_K_M.gguf"):
        write(tmp_path / name, b"x")
    assert main(["download", "--dest", str(tmp_path)]) == 0
    said = f"{tmp_path} also has vae/wan_2.1_vae.safetensors, wan2.1-i2v-14b-480p-Q4_K_M.gguf: this command knows"
    assert said in capsys.readouterr().out


def test_unknown_names_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown weights: Wan3; allowed are Wan2\.1"):
        ensure(tmp_path, ["Wan3"])


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1 if line[0] == "*" else 0] for line in lines[:-1]] == list(BUNDLES)
    assert {line.split()[1] for line in lines[:-1] if line[0] == "*"} == set(DEFAULT_NAMES)


def test_download_of_a_complete_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, WAV2VEC)
    assert main(["download", WAV2VEC, "--dest", str(tmp_path)]) == 0
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([WAV2VEC], 1, r"error: chinese-wav2vec2-base lacks config\.json"),
        ([WAV2VEC, "--source", "multitalk"], 1, "error: .*needs pget, which is not on PATH"),
        ([WAV2VEC, "--source", "ftp"], 2, "'ftp' is not one of multitalk, huggingface, none"),
        (["Wan3"], 2, "error: unknown weights: Wan3"),
    ],
)
def test_failed_download(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.setenv(BASE_URL_VARIABLE, "http://127.0.0.1:1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["download", *arguments, "--dest", str(tmp_path / "w")]) == status
    (message,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("error")]
    assert re.search(words, message)
    assert "\n" not in message


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "contains none of" in capsys.readouterr().out
    fill(tmp_path, WAV2VEC)
    assert main(["verify", str(tmp_path)]) == 0
    assert "chinese-wav2vec2-base: complete" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), BASE]) == 1
    assert "files missing or broken" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), "--deep"]) == 0
    assert "model.safetensors: ok, 4,1" in (out := capsys.readouterr().out)
    assert "content not checked: no hash is known" in out
    path = tmp_path / WAV2VEC / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", str(tmp_path)]) == 1
    assert "model.safetensors: broken, 4,1" in capsys.readouterr().out


def test_smaller_file_than_published_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, BASE)
    assert main(["verify", str(tmp_path)]) == 0
    assert "smaller than the published 507,609,880 bytes: another dtype?" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_parse(command: str) -> None:
    options = weights.parser().parse_args(shlex.split(command, comments=True)[2:])
    assert set(getattr(options, "names", [])) <= BUNDLES.keys()


def test_convert_verify_and_pack(puppet_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    converted = tmp_path / "converted"
    arguments = ["convert", str(puppet_folder), str(converted), "--model", "multitalk-puppet"]
    assert main(arguments) == 0
    assert (converted / "converted.json").is_file()
    assert main(["verify", str(converted), "--deep"]) == 0
    assert main(["pack", str(converted), str(tmp_path / "tars")]) == 0
    with tarfile.open(tmp_path / "tars" / "converted.tar") as packed:
        assert "converted/converted.json" in packed.getnames()
    assert main(["pack", str(converted), str(tmp_path / "tars")]) == 1
    assert "converted.tar exists" in caplog.text
    assert main(["pack", str(converted), str(tmp_path / "tars"), "--overwrite"]) == 0
    assert main(["convert", str(puppet_folder), str(tmp_path / "x"), "--model", "multitalk-15B"]) == 1


def test_lora_of_the_model_itself_needs_no_manifest(tmp_path: Path) -> None:
    assert weights.locate_lora(tmp_path, "distilled") is None
    own = write(tmp_path / "loras" / "distilled.safetensors", b"any")
    assert weights.locate_lora(tmp_path, "distilled") == own
    (path,) = files_of("FusionX")
    assert weights.locate_lora(tmp_path, "FusionX") is None
    installed = write(tmp_path / Path(path).name, files_of("FusionX")[path])
    assert weights.locate_lora(tmp_path, "FusionX") == installed
