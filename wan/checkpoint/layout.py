"""Find the files of each component in a folder, in every known layout.

Supported: base and audio bundle side by side; the base bundle with the others inside or beside it; one merged file;
VAE, CLIP and T5 files beside the bundles; quantized files; a converted folder. No file has to be linked or edited.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wan.checkpoint.quanto import QuantizationMap, parse_map, read_map
from wan.checkpoint.tensor_files import CheckpointError, open_safetensors
from wan.configs.schema import ModelConfig

Precision = Literal["bf16", "fp8", "int8"]
"""bf16 means the dtype of the configuration; fp8 and int8 quantize the linear layers of the blocks."""

MANIFEST = "converted.json"
COMPONENTS = ("transformer", "text_encoder", "image_encoder", "vae")
_SHARDS = "diffusion_pytorch_model*.safetensors"
_AUDIO_PREFIX = "audio_proj."
# Prefixes of weight files, and of their quantization maps where those differ.
_MAP_PREFIXES = (("dit_model_", "dit_model_map_"), ("t5_", "t5_map_"), ("quant_model_", "quantization_map_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFiles:
    """Files of one network, later ones overriding earlier ones, and its quantization map; None if not quantized."""

    files: tuple[Path, ...]
    quantization_map: QuantizationMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """Files of a model. `wan` does not read the folder `speech_encoder`, which may be absent.

    `converted`: precision of a converted folder, None for every other layout.
    """

    transformer: ComponentFiles
    text_encoder: ComponentFiles
    image_encoder: ComponentFiles
    vae: ComponentFiles
    tokenizer: Path
    config_json: Path
    speech_encoder: Path
    converted: str | None = None


def find_layout(config: ModelConfig, folder: Path, precision: Precision | None) -> CheckpointLayout:
    """Find the components of `config` in a folder of bundles, a base bundle or a folder written by `convert`.

    `precision` None: that of a converted folder, otherwise bf16.
    Raises `CheckpointError` if the folder has none of the known layouts. Single files are only located: whether they
    exist is checked by their readers.
    """
    if is_converted(folder):
        return _converted_layout(config, folder, precision)
    base = _base_folder(config, folder)
    files = config.files
    search = list(dict.fromkeys((base, folder / files.audio, base.parent / files.audio, base.parent, folder)))
    return CheckpointLayout(
        transformer=_quantized(files.quantized, search, precision) or ComponentFiles(files=_shards(config, search)),
        text_encoder=_quantized(files.text_encoder_quantized, search, precision)
        or ComponentFiles(files=(_find(files.text_encoder, search),)),
        image_encoder=ComponentFiles(files=(_find(files.image_encoder, search),)),
        vae=ComponentFiles(files=(_find(files.vae, search),)),
        tokenizer=_find(files.tokenizer, search),
        speech_encoder=find_speech_encoder(config, folder),
        config_json=_find("config.json", search),
    )


def missing_weights(config: ModelConfig, folder: Path, precision: Precision | None) -> str | None:
    """Which weights are missing in a folder, as one sentence; None if every file exists. Contents are not read."""
    try:
        layout = find_layout(config, folder, precision)
    except CheckpointError as error:
        return str(error)
    networks = (layout.transformer, layout.text_encoder, layout.image_encoder, layout.vae)
    required = [*(path for network in networks for path in network.files), layout.tokenizer, layout.speech_encoder]
    missing = [str(path) for path in required if not path.exists()]
    return f"weights are missing: {', '.join(missing)}" if missing else None


def find_speech_encoder(config: ModelConfig, folder: Path) -> Path:
    """The folder of the speech encoder: in `folder`, or beside it if `folder` is the base bundle."""
    return _find(config.files.speech, [folder, folder.absolute().parent])


def is_converted(folder: Path) -> bool:
    """Whether the folder was written by `convert` and so holds a complete model."""
    return (folder / MANIFEST).is_file()


def map_path(weights: Path) -> Path:
    """The quantization map of a file: of the same name, or of one of the published names."""
    stem = weights.stem
    names = [stem, *(stem.replace(old, new, 1) for old, new in _MAP_PREFIXES if stem.startswith(old))]
    paths = [weights.with_name(f"{name}.json") for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise CheckpointError(f"no map of {weights}; looked for {' and '.join(path.name for path in paths)}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest that `convert` writes. Raises `CheckpointError` if it is invalid or incomplete."""
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read: {error}") from error
    files, quantized = manifest.get("parts"), manifest.get("quantised")
    complete = isinstance(files, dict) and isinstance(quantized, dict) and {"model", "dtype"} <= manifest.keys()
    if not complete or not all(isinstance(files.get(name), list) for name in COMPONENTS):  # type: ignore[union-attr]
        raise CheckpointError(f"{folder / MANIFEST} lacks model, dtype, quantised, or the files of a component")
    return manifest


def _converted_layout(config: ModelConfig, folder: Path, precision: Precision | None) -> CheckpointLayout:
    manifest = read_manifest(folder)
    if manifest["model"] != config.name:
        raise CheckpointError(f"{folder} holds {manifest['model']}, not {config.name}")
    if precision is not None and manifest["dtype"] not in ("bf16", precision):
        raise CheckpointError(f"{folder} was converted to {manifest['dtype']}; {precision} cannot be made of that")

    def component_files(name: str) -> ComponentFiles:
        layers = manifest["quantised"].get(name)
        return ComponentFiles(
            files=tuple(folder / file for file in manifest["parts"][name]),
            quantization_map=None if layers is None else parse_map(layers, f"{folder / MANIFEST}, {name}"),
        )

    return CheckpointLayout(
        **{name: component_files(name) for name in COMPONENTS},
        tokenizer=folder / config.files.tokenizer,
        speech_encoder=folder / config.files.speech,
        config_json=folder / "config.json",
        converted=manifest["dtype"],
    )


def _base_folder(config: ModelConfig, folder: Path) -> Path:
    """The base bundle: a subfolder of its name, or `folder` itself."""
    named = folder / config.files.base
    if named.is_dir():
        return named
    if (folder / "config.json").is_file() or any(folder.glob(_SHARDS)):
        return folder
    raise CheckpointError(f"no weights of {config.name}: neither {named} nor {_SHARDS} in {folder}")


def _quantized(pattern: str, search: Iterable[Path], precision: Precision | None) -> ComponentFiles | None:
    """The quantized file of a precision; None if there is none."""
    if precision in ("bf16", None):
        return None
    for folder in search:
        path = folder / pattern.format(precision=precision)
        if path.is_file():
            return ComponentFiles(files=(path,), quantization_map=read_map(map_path(path)))
    return None


def _shards(config: ModelConfig, search: list[Path]) -> tuple[Path, ...]:
    """The shards of the base network followed by the audio layers, or shards or one merged file that hold both."""
    base = search[0]
    candidates = [folder / config.files.audio_weights for folder in search]
    audio = next((path for path in candidates if path.is_file()), None)
    shards = tuple(path for path in sorted(base.glob(_SHARDS)) if path != audio)
    if not shards:
        return (_merged_file(base),)
    if audio is not None:
        return (*shards, audio)
    if any(key.startswith(_AUDIO_PREFIX) for path in shards for key in open_safetensors(path)):
        return shards
    raise CheckpointError(f"no {config.files.audio_weights}; looked for {' and '.join(map(str, candidates))}")


def _merged_file(base: Path) -> Path:
    """The only safetensors file of a folder without shards."""
    files = sorted(base.glob("*.safetensors"))
    if len(files) != 1:
        names = f": {', '.join(path.name for path in files)}" if files else ""
        raise CheckpointError(f"no {_SHARDS} in {base}, nor a single merged file{names}")
    return files[0]


def _find(name: str, search: list[Path]) -> Path:
    """The first path that exists, otherwise the one in the first folder, for the error message of its reader."""
    return next((folder / name for folder in search if (folder / name).exists()), search[0] / name)
