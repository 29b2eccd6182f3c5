"""Find the files of each component in a folder, in every known layout.

Supported: base and audio bundle side by side; the base bundle with the others inside or beside it; one merged file;
VAE, CLIP and T5 files beside the bundles; quantized files; a converted folder; files of other packages under any name,
in these folders or in ComfyUI's. No file has to be linked or edited.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wan.checkpoint.quanto import QuantizationMap, parse_map, read_map
from wan.checkpoint.repackaged import OtherFiles, identify, open_repackaged
from wan.checkpoint.tensor_files import CheckpointError
from wan.configs.schema import ModelConfig

Precision = Literal["bf16", "fp8", "int8"]
"""bf16 means the dtype of the configuration; fp8 and int8 quantize the linear layers of the blocks."""

MANIFEST = "converted.json"
TOKENIZER_BUNDLE = "umt5-xxl-tokenizer"
"""Folder of the tokenizer alone, for a text encoder without the base bundle."""
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

    `converted`: precision of a converted folder, None for every other layout. `config_json`: None for a repackaged
    transformer without one. `repackaged`: whether a file was found by its contents, or the base in a folder of another
    name.
    """

    transformer: ComponentFiles
    text_encoder: ComponentFiles
    image_encoder: ComponentFiles
    vae: ComponentFiles
    tokenizer: Path
    config_json: Path | None
    speech_encoder: Path
    converted: str | None = None
    repackaged: bool = False


def find_layout(config: ModelConfig, folder: Path, precision: Precision | None) -> CheckpointLayout:
    """Find the components of `config` in a folder of bundles, a base bundle or a folder written by `convert`.

    `precision` None: that of a converted folder, otherwise bf16.
    Raises `CheckpointError` if the folder has none of the known layouts. Single files are only located: whether they
    exist is checked by their readers.
    """
    if is_converted(folder):
        return _converted_layout(config, folder, precision)
    files = config.files
    others = OtherFiles(config, folder)
    base = _base_folder(config, folder, others)
    audio_folders = (folder / files.audio, base.parent / files.audio)
    named = folder / files.base
    search = list(dict.fromkeys((base, named, *audio_folders, base.parent, folder)))
    transformer = _quantized(files.quantized, search, precision)
    if transformer is None:
        transformer = ComponentFiles(files=_transformer_files(config, search, others))
    config_json = _find("config.json", search)
    has_shards = any(path.match(_SHARDS) for path in transformer.files)
    single = {
        kind: _find_or_identify(name, search, others, kind)
        for kind, name in (("image_encoder", files.image_encoder), ("vae", files.vae))
    }
    quantized_text = _quantized(files.text_encoder_quantized, search, precision)
    text = quantized_text or ComponentFiles(
        files=(_find_or_identify(files.text_encoder, search, others, "text_encoder"),)
    )
    found = (*transformer.files, *text.files, *single.values())
    return CheckpointLayout(
        transformer=transformer,
        text_encoder=text,
        image_encoder=ComponentFiles(files=(single["image_encoder"],)),
        vae=ComponentFiles(files=(single["vae"],)),
        tokenizer=_find(files.tokenizer, [*search, folder / TOKENIZER_BUNDLE]),
        speech_encoder=find_speech_encoder(config, folder),
        config_json=config_json if has_shards or config_json.is_file() else None,
        repackaged=base not in (named, folder) or any(path in others.paths for path in found),
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


def present_bundles(config: ModelConfig, folder: Path, precision: Precision | None) -> set[str]:
    """Names of the bundles of which `folder` has the contents in another packaging, so that they are not downloaded."""
    try:
        layout = find_layout(config, folder, precision)
    except CheckpointError:
        return {config.files.base} if _has_other_base(config, folder) else set()
    bundles = {config.files.base, config.files.audio_bundle or config.files.audio}
    return bundles if layout.repackaged else set()


def _has_other_base(config: ModelConfig, folder: Path) -> bool:
    """Whether a base network lies in a file or a folder of another name, or in several of them."""
    if "transformer" in OtherFiles(config, folder).kinds.values():
        return True
    try:
        return _version_folder(config, folder) not in (None, folder / config.files.base)
    except CheckpointError:
        return True


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
        transformer=component_files("transformer"),
        text_encoder=component_files("text_encoder"),
        image_encoder=component_files("image_encoder"),
        vae=component_files("vae"),
        tokenizer=folder / config.files.tokenizer,
        speech_encoder=folder / config.files.speech,
        config_json=folder / "config.json",
        converted=manifest["dtype"],
    )


def _base_folder(config: ModelConfig, folder: Path, others: OtherFiles) -> Path:
    """The base bundle: a subfolder of its name, a subfolder with another version's shards, or `folder` itself."""
    named = folder / config.files.base
    if any(named.glob(_SHARDS)):
        return named
    if not any(folder.glob(_SHARDS)) and (found := _version_folder(config, folder)):
        return found
    if named.is_dir():
        return named
    if (folder / "config.json").is_file() or any(folder.glob(_SHARDS)) or others.usable:
        return folder
    raise CheckpointError(f"no weights of {config.name}: neither {named} nor {_SHARDS} in {folder}{others.description}")


def _version_folder(config: ModelConfig, folder: Path) -> Path | None:
    """A subfolder, such as that of the 720P version, whose shards are the base network of `config`."""
    subfolders = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    sharded = {path: tuple(sorted(path.glob(_SHARDS))) for path in subfolders}
    found = [path for path, shards in sharded.items() if shards and identify(shards, config) == "transformer"]
    if len(found) > 1:
        raise CheckpointError(f"several base models in {folder}: {', '.join(path.name for path in found)}; keep one")
    return found[0] if found else None


def _quantized(pattern: str, search: Iterable[Path], precision: Precision | None) -> ComponentFiles | None:
    """The quantized file of a precision; None if there is none."""
    if precision in ("bf16", None):
        return None
    for folder in search:
        path = folder / pattern.format(precision=precision)
        if path.is_file():
            return ComponentFiles(files=(path,), quantization_map=read_map(map_path(path)))
    return None


def _transformer_files(config: ModelConfig, search: list[Path], others: OtherFiles) -> tuple[Path, ...]:
    """The base network followed by the audio layers, or files that hold both; the base is shards or one file."""
    candidates = [folder / config.files.audio_weights for folder in search]
    audio = next((path for path in candidates if path.is_file()), None)
    base = tuple(path for path in sorted(search[0].glob(_SHARDS)) if path != audio)
    if not base:
        path = others.find("transformer")
        if path is None:
            raise CheckpointError(f"no {_SHARDS} in {search[0]}, nor a file with the base network{others.description}")
        base = (path,)
    audio = audio or others.find("audio")
    if audio is not None:
        return (*base, audio)
    if any(key.startswith(_AUDIO_PREFIX) for path in base for key in open_repackaged(path)):
        return base
    raise CheckpointError(
        f"no {config.files.audio_weights}; looked for {' and '.join(map(str, candidates))}{others.description}"
    )


def _find_or_identify(name: str, search: list[Path], others: OtherFiles, component: str) -> Path:
    """The file of this name, else the one that holds the component, else the path in the first folder."""
    path = _find(name, search)
    return path if path.exists() else others.find(component) or path


def _find(name: str, search: list[Path]) -> Path:
    """The first path that exists, otherwise the one in the first folder, for the error message of its reader."""
    return next((folder / name for folder in search if (folder / name).exists()), search[0] / name)
