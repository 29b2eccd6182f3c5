"""Every layout of checkpoint files loads to the same weights; conversion and its output."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.weights.pack import pack
from src.weights.verify import inspect_converted
from wan.checkpoint import CheckpointError, Models, Precision, load_models
from wan.checkpoint.convert import convert, staging_dir
from wan.checkpoint.layout import MANIFEST, find_layout, find_speech_encoder, map_path
from wan.checkpoint.quanto import map_content
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.configs.models import infinitetalk
from wan.modules.quantized import QuantizedLinear, quantize_rows, quantized_layers

CPU = torch.device("cpu")
Rearrange = Callable[[ModelConfig, Path], None]


@pytest.fixture
def folder(puppet_folder: Path, tmp_path: Path) -> Path:
    """The puppet model's folder as hard links: tests may move and remove files, but not write to them."""
    return Path(shutil.copytree(puppet_folder, tmp_path / "weights", copy_function=os.link))


@pytest.fixture(scope="module")
def plain(puppet: ModelConfig, puppet_folder: Path) -> dict[str, Tensor]:
    return state(load_models(puppet, puppet_folder, CPU))


def modules(models: Models) -> Iterator[tuple[str, nn.Module]]:
    yield "transformer", models.transformer
    yield "text_encoder", models.text_encoder.model
    yield "image_encoder", models.image_encoder.model
    yield "vae", models.vae.model


def state(models: Models) -> dict[str, Tensor]:
    return {
        f"{component}.{name}": tensor
        for component, module in modules(models)
        for name, tensor in module.state_dict().items()
    }


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def all_tensors(config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    paths = find_layout(config, folder, "bf16").transformer.files
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def one_merged_file(config: ModelConfig, folder: Path) -> None:
    tensors, base = all_tensors(config, folder), folder / config.files.base
    for path in base.glob("diffusion_pytorch_model*"):
        path.unlink()
    shutil.rmtree(folder / config.files.audio)
    save_file(tensors, base / "anything.safetensors")


def merged_shards(config: ModelConfig, folder: Path) -> None:
    audio = folder / config.files.audio
    (audio / config.files.audio_weights).rename(folder / config.files.base / "diffusion_pytorch_model-99.safetensors")
    shutil.rmtree(audio)


def files_beside_the_bundles(config: ModelConfig, folder: Path) -> None:
    for name in (config.files.vae, config.files.image_encoder, config.files.text_encoder, "google"):
        (folder / config.files.base / name).rename(folder / name)


def audio_layers_in_the_base(config: ModelConfig, folder: Path) -> None:
    name = config.files.audio_weights
    (folder / config.files.audio / name).rename(folder / config.files.base / name)


@pytest.mark.parametrize(
    "rearrange", [one_merged_file, merged_shards, files_beside_the_bundles, audio_layers_in_the_base]
)
@pytest.mark.parametrize("folder_given", ["all bundles", "base bundle"])
def test_layouts_load_the_same_weights(
    puppet: ModelConfig,
    folder: Path,
    plain: dict[str, Tensor],
    rearrange: Rearrange,
    folder_given: str,
) -> None:
    rearrange(puppet, folder)
    path = folder if folder_given == "all bundles" else folder / puppet.files.base
    assert equal(state(load_models(puppet, path, CPU)), plain)


def test_bundles_inside_the_base_bundle(puppet: ModelConfig, folder: Path, plain: dict[str, Tensor]) -> None:
    """`weights.ensure` puts them there for the folder of a base bundle."""
    base = folder / puppet.files.base
    for name in (puppet.files.audio, puppet.files.speech):
        (folder / name).rename(base / name)
    assert equal(state(load_models(puppet, base, CPU)), plain)
    assert find_speech_encoder(puppet, base) == base / puppet.files.speech


def test_speech_encoder_beside_the_base_bundle(puppet: ModelConfig, folder: Path) -> None:
    assert find_speech_encoder(puppet, folder) == folder / puppet.files.speech
    assert find_speech_encoder(puppet, folder / puppet.files.base) == folder / puppet.files.speech


@pytest.mark.parametrize("variant", ["single", "multi"])
def test_infinitetalk_weights_override_the_base(
    puppet: ModelConfig, folder: Path, plain: dict[str, Tensor], variant: str
) -> None:
    config = infinitetalk(puppet, variant)
    path = folder / config.files.audio / config.files.audio_weights
    path.parent.mkdir(parents=True)
    audio = load_file(folder / puppet.files.audio / puppet.files.audio_weights)
    save_file({**audio, "head.head.bias": torch.full((64,), 7.0)}, path)
    loaded = state(load_models(config, folder, CPU))
    differing = {name for name in plain if not torch.equal(plain[name], loaded[name])}
    assert differing == {"transformer.head.head.bias"}


def test_infinitetalk_configs_have_the_same_network() -> None:
    base = WAN_CONFIGS["multitalk-14B"]
    for variant, persons in (("single", 1), ("multi", 2)):
        config = WAN_CONFIGS[f"infinitetalk-14B-{variant}"]
        assert config.files.audio_weights == f"{variant}/infinitetalk.safetensors"
        assert (config.mode, config.motion_frame, config.max_persons) == ("infinitetalk", 9, persons)
        names = {name: getattr(base, name) for name in ("name", "description", "files")}
        assert (
            replace(config, **names, mode=base.mode, motion_frame=base.motion_frame, max_persons=base.max_persons)
            == base
        )


def write_quantized(config: ModelConfig, folder: Path, dtype: torch.dtype, weights: str, layer_map: str) -> None:
    """Write the transformer as optimum-quanto does."""
    tensors = all_tensors(config, folder)
    layers = {
        name.removesuffix(".weight"): dtype
        for name, tensor in tensors.items()
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2
    }
    for layer in layers:
        data, scale = quantize_rows(tensors.pop(f"{layer}.weight"), dtype)
        tensors |= {f"{layer}.weight._data": data, f"{layer}.weight._scale": scale}
        tensors |= {f"{layer}.input_scale": torch.ones(()), f"{layer}.output_scale": torch.ones(())}
    path = folder / config.files.audio / "quant_models" / weights
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    path.with_name(layer_map).write_text(json.dumps(map_content(layers)))


@pytest.mark.parametrize("shards", [True, False])
def test_quantized_file_replaces_base_and_audio(puppet: ModelConfig, folder: Path, shards: bool) -> None:
    expected = state(load_models(puppet, folder, CPU, "int8"))
    write_quantized(puppet, folder, torch.int8, "dit_model_int8.safetensors", "dit_model_map_int8.json")
    if not shards:
        for path in (folder / puppet.files.base).glob("diffusion_pytorch_model*"):
            path.unlink()
        (folder / puppet.files.audio / puppet.files.audio_weights).unlink()
    assert find_layout(puppet, folder, "int8").transformer.quantization_map is not None
    models = load_models(puppet, folder, CPU, "int8")
    assert equal(state(models), expected)
    assert not any(getattr(layer, "fp8_matmul", False) for layer in models.transformer.modules())


@pytest.mark.parametrize(
    ("weights", "layer_map"),
    [
        ("dit_model_int8", "dit_model_map_int8"),
        ("t5_int8", "t5_map_int8"),
        ("quant_model_int8_FusionX", "quantization_map_int8_FusionX"),
        ("infinitetalk_single_fp8", "infinitetalk_single_fp8"),
    ],
)
def test_published_names_of_quantization_maps(tmp_path: Path, weights: str, layer_map: str) -> None:
    path = tmp_path / f"{weights}.safetensors"
    with pytest.raises(CheckpointError, match=rf"no map of .*{weights}.*looked for {weights}\.json"):
        map_path(path)
    (tmp_path / f"{layer_map}.json").touch()
    assert map_path(path) == tmp_path / f"{layer_map}.json"


def test_quantized_file_of_the_text_encoder(puppet: ModelConfig, folder: Path) -> None:
    expected = state(load_models(puppet, folder, CPU, "int8"))
    tensors = torch.load(folder / puppet.files.base / puppet.files.text_encoder, weights_only=True)
    names = [name for name in tensors if name.startswith("blocks.") and (".attn." in name or ".ffn." in name)]
    for name in names:
        data, scale = quantize_rows(tensors.pop(name), torch.int8)
        tensors |= {f"{name}._data": data, f"{name}._scale": scale}
    quantized = folder / puppet.files.audio / "quant_models"
    quantized.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, quantized / "t5_int8.safetensors")
    layers = {name.removesuffix(".weight"): torch.int8 for name in names}
    (quantized / "t5_map_int8.json").write_text(json.dumps(map_content(layers)))
    models = load_models(puppet, folder, CPU, "int8")
    assert equal(state(models), expected)
    assert models.text_encoder("hello").isfinite().all()


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_linear_layers_of_blocks_are_quantized_on_loading(
    puppet: ModelConfig, puppet_folder: Path, plain: dict[str, Tensor], precision: Precision
) -> None:
    models = load_models(puppet, puppet_folder, CPU, precision)
    for component, module in modules(models):
        layers = quantized_layers(module)
        linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        assert bool(layers) == (component in ("transformer", "text_encoder"))
        assert not [name for name in linears if name.startswith(("blocks.", "encoder.block."))]
    first = models.transformer.get_submodule("blocks.0.ffn.0")
    assert isinstance(first, QuantizedLinear)
    assert first.fp8_matmul == (precision == "fp8")
    before, after = plain["transformer.blocks.0.ffn.0.weight"], first.data.float() * first.scale
    assert 0 < (after - before).norm() / before.norm() < 0.05
    reference = load_models(puppet, puppet_folder, CPU).text_encoder("hello")
    assert (models.text_encoder("hello") - reference).norm() / reference.norm() < 0.1


@pytest.fixture(scope="module", params=["bf16", "fp8"])
def converted(
    request: pytest.FixtureRequest, puppet: ModelConfig, puppet_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Precision, Path]:
    target = tmp_path_factory.mktemp("converted") / "puppet"
    convert(replace(puppet, dtype="bfloat16"), puppet_folder, target, request.param, shard_size=4 * 10**6)
    return request.param, target


def test_converted_folder_loads_to_the_same_weights(
    puppet: ModelConfig, puppet_folder: Path, converted: tuple[Precision, Path]
) -> None:
    precision, target = converted
    config = replace(puppet, dtype="bfloat16")
    models, expected = (load_models(config, folder, CPU, precision) for folder in (target, puppet_folder))
    assert equal(state(models), state(expected))
    for component, module in modules(models):
        reference = dict(modules(expected))[component]
        assert [getattr(layer, "fp8_matmul", None) for layer in module.modules()] == [
            getattr(layer, "fp8_matmul", None) for layer in reference.modules()
        ]
    assert models.transformer.state_dict()["blocks.0.modulation"].dtype == torch.float32


def test_files_of_a_converted_folder(puppet: ModelConfig, converted: tuple[Precision, Path]) -> None:
    _, target = converted
    manifest = json.loads((target / MANIFEST).read_text())
    assert len(manifest["parts"]["transformer"]) > 1
    for name in manifest["parts"]["transformer"]:
        assert (target / name).stat().st_size < 5 * 10**6
        assert load_file(target / name)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert files == manifest["sha256"].keys() | {MANIFEST}
    assert (target / puppet.files.speech / "config.json").is_file()
    assert broken_files(target) == []


def test_converted_folder_refuses_other_precisions_and_models(
    puppet: ModelConfig, converted: tuple[Precision, Path]
) -> None:
    precision, target = converted
    config = replace(puppet, dtype="bfloat16")
    if precision == "fp8":
        with pytest.raises(CheckpointError, match="was converted to fp8; bf16 cannot be made of that"):
            load_models(config, target, CPU)
    else:
        assert quantized_layers(load_models(config, target, CPU, "int8").transformer)
    with pytest.raises(CheckpointError, match="holds multitalk-puppet, not other"):
        load_models(replace(config, name="other"), target, CPU, precision)


def broken_files(folder: Path) -> list[str]:
    """Files of a converted folder that are absent or do not match their hashes."""
    return [status.file.path for status in inspect_converted(folder, "all") if status.is_incomplete]


def test_damaged_and_missing_files_are_detected(converted: tuple[Precision, Path], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(converted[1], tmp_path / "damaged"))
    path = damaged / "vae-0001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (damaged / "config.json").unlink()
    assert sorted(broken_files(damaged)) == ["config.json", "vae-0001.safetensors"]


def test_packed_folder_unpacks_to_the_same_files(converted: tuple[Precision, Path], tmp_path: Path) -> None:
    assert pack(converted[1], tmp_path) == [tmp_path / "puppet.tar"]
    shutil.unpack_archive(tmp_path / "puppet.tar", tmp_path, filter="data")
    assert broken_files(tmp_path / "puppet") == []
    assert (tmp_path / "puppet" / MANIFEST).read_bytes() == (converted[1] / MANIFEST).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": "x", "dtype": "bf16", "quantised": {}, "parts": {"vae": 1}}']
)
def test_invalid_manifest_is_refused(puppet: ModelConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"converted\.json"):
        load_models(puppet, tmp_path, CPU)


def test_concurrent_conversion_is_refused(puppet: ModelConfig, puppet_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "left.safetensors").write_text("written by a killed process")
    with staging_dir(target) as partial:
        assert list(partial.iterdir()) == []
        with pytest.raises(CheckpointError, match="another process is writing"):
            convert(puppet, puppet_folder, target)
    convert(puppet, puppet_folder, target)
    assert broken_files(target) == []


def test_conversion_checks_free_disk_space(
    puppet: ModelConfig, puppet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(CheckpointError, match=r"0\.0 GB free and 0\.0 GB are needed"):
        convert(puppet, puppet_folder, tmp_path / "target")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_failed_conversion_leaves_no_target(puppet: ModelConfig, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    vae = folder / puppet.files.base / puppet.files.vae
    vae.unlink()
    vae.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a file of tensors"):
        convert(puppet, folder, target)
    assert not target.exists()
    target.mkdir()
    with pytest.raises(CheckpointError, match="already exists"):
        convert(puppet, folder, target)
