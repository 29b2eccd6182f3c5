"""Loading a folder of weights: results, and errors for invalid folders and files."""

import contextlib
import json
import pickle
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wan.checkpoint import CheckpointError, load_models
from wan.checkpoint.layout import find_layout
from wan.checkpoint.loading import Cast, load_tensors
from wan.checkpoint.tensor_files import open_pth, open_tensors
from wan.configs import ModelConfig

CPU = torch.device("cpu")


@pytest.fixture
def folder(puppet_folder: Path, tmp_path: Path) -> Path:
    """A copy of the puppet model's folder that a test may damage."""
    return Path(shutil.copytree(puppet_folder, tmp_path / "weights"))


def shard(folder: Path, config: ModelConfig) -> Path:
    return sorted((folder / config.files.base).glob("diffusion_pytorch_model-*.safetensors"))[0]


def test_loaded_weights_equal_the_files(puppet: ModelConfig, puppet_folder: Path) -> None:
    models = load_models(puppet, puppet_folder, CPU)
    state = models.transformer.state_dict()
    paths = find_layout(puppet, puppet_folder, "bf16").transformer.files
    files = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert state.keys() == files.keys()
    assert all(torch.equal(state[name], files[name]) for name in files)
    modules = (models.transformer, models.text_encoder.model, models.image_encoder.model, models.vae.model)
    for module in modules:
        assert not module.training
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_loading_in_inference_mode_makes_no_inference_tensors(puppet: ModelConfig, puppet_folder: Path) -> None:
    with torch.inference_mode():
        models = load_models(replace(puppet, dtype="bfloat16"), puppet_folder, CPU)
    assert not any(weight.is_inference() for weight in models.transformer.parameters())
    assert not any(weight.is_inference() for weight in models.vae.model.parameters())


def test_base_folder_with_audio_layers_inside(puppet: ModelConfig, folder: Path) -> None:
    base = folder / puppet.files.base
    (folder / puppet.files.audio / puppet.files.audio_weights).rename(base / puppet.files.audio_weights)
    assert load_models(puppet, base, CPU).transformer.config == puppet.transformer


def test_base_folder_finds_the_audio_bundle_beside_it(puppet: ModelConfig, folder: Path) -> None:
    base = folder / puppet.files.base
    assert [path.parent.name for path in find_layout(puppet, base, "bf16").transformer.files][-1] == puppet.files.audio


def test_audio_file_overrides_the_base(puppet: ModelConfig, folder: Path) -> None:
    path = folder / puppet.files.audio / puppet.files.audio_weights
    tensors = load_file(path)
    save_file({**tensors, "head.head.bias": torch.full((64,), 7.0)}, path)
    assert (load_models(puppet, folder, CPU).transformer.head.head.bias == 7).all()


def test_weights_are_cast_except_those_kept_in_float32(puppet: ModelConfig, folder: Path) -> None:
    transformer = load_models(replace(puppet, dtype="bfloat16"), folder, CPU).transformer
    assert transformer.dtype == torch.bfloat16
    assert transformer.blocks[0].modulation.dtype == transformer.head.head.weight.dtype == torch.float32


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "format"])
def test_mismatched_tensors_are_listed(puppet: ModelConfig, folder: Path, change: str) -> None:
    path = shard(folder, puppet)
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        name = "blocks.99.surprise"
        tensors[name] = torch.zeros(1)
    elif change == "shape":
        tensors[name] = torch.zeros(3)
    save_file(tensors, path) if change != "format" else path.write_bytes(b"not a tensor file")
    with pytest.raises(CheckpointError, match=path.name if change == "format" else name.replace(".", r"\.")):
        load_models(puppet, folder, CPU)


def test_missing_tokenizer_is_named_with_the_weights_that_are_it(puppet: ModelConfig, folder: Path) -> None:
    shutil.rmtree(folder / puppet.files.base / puppet.files.tokenizer)
    with pytest.raises(CheckpointError, match=r"no tokenizer folder .*the weights named umt5-xxl-tokenizer are this"):
        load_models(puppet, folder, CPU)


@pytest.mark.parametrize("field", ["vae", "text_encoder", "image_encoder", "tokenizer"])
def test_absent_files_are_named(puppet: ModelConfig, folder: Path, field: str) -> None:
    path = folder / puppet.files.base / getattr(puppet.files, field)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=path.name):
        load_models(puppet, folder, CPU)


def test_empty_folder_is_refused(puppet: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights of multitalk-puppet"):
        load_models(puppet, tmp_path, CPU)


def test_mismatched_config_json_is_refused(puppet: ModelConfig, folder: Path) -> None:
    path = folder / puppet.files.base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_heads": 3}))
    with pytest.raises(CheckpointError, match="num_heads is 3, not 6"):
        load_models(puppet, folder, CPU)


class MaliciousPickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("format", ["torch", "pickle"])
def test_pickle_that_executes_code_is_refused(tmp_path: Path, format: str) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    if format == "torch":
        torch.save({"x": MaliciousPickle(proof)}, path)
    else:
        path.write_bytes(pickle.dumps({"x": MaliciousPickle(proof)}))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        open_pth(path)
    assert not proof.exists()


def test_compressed_pth_is_read(tmp_path: Path) -> None:
    tensor = torch.arange(1000.0)
    torch.save({"x": tensor}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "x.pth", "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert torch.equal(load_tensors({"x": Cast(open_pth(tmp_path / "x.pth")["x"], torch.float32)}, CPU)["x"], tensor)


@pytest.mark.parametrize("content", [[1], {"x": 1}, {1: torch.ones(1)}, {"state_dict": {"x": torch.ones(1)}}])
def test_pth_with_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a file of tensors only"):
        open_pth(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "legacy.pth"])
def test_corrupted_files_load_or_raise_checkpoint_error(tmp_path: Path, name: str) -> None:
    """Passes unless any other exception is raised."""
    tensors = {"a": torch.ones(4, 8), "b": torch.ones(3).bfloat16()}
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "x.pth")
    else:
        save_file(tensors, path)
    original = path.read_bytes()
    for seed in range(75):
        rng = random.Random(seed)
        data = bytearray(original[: rng.choice([len(original), rng.randrange(len(original))])])
        for _ in range(rng.choice([0, 1, 3, 10])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            load_tensors({key: Cast(source, torch.float32) for key, source in open_tensors(path).items()}, CPU)


@pytest.mark.parametrize("text", ["{", "[1]", "5"])
def test_invalid_config_json_is_refused(puppet: ModelConfig, folder: Path, text: str) -> None:
    path = folder / puppet.files.base / "config.json"
    path.unlink()
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_models(puppet, folder, CPU)


@pytest.mark.parametrize("legacy", [False, True])
def test_pth_of_both_formats_is_read(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"x": torch.arange(3)}, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(load_tensors({"x": Cast(open_pth(path)["x"], torch.int64)}, CPU)["x"], torch.arange(3))
