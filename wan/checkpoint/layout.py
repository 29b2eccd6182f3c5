"""Where the parts of a model lie below a folder, in every layout in the wild.

Nothing has to be linked, copied or edited: the base bundle and the audio bundle side by side, a base bundle alone with
its neighbours, one merged file, VAE, CLIP and T5 files beside the folders, quantised files, and our converted form.
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
"""bf16 means the configuration's own dtype; the others keep the linear layers in eight bits."""

MANIFEST = "converted.json"
COMPONENTS = ("transformer", "text_encoder", "image_encoder", "vae")
_SHARDS = "diffusion_pytorch_model*.safetensors"
_AUDIO = "audio_proj."
# Maps that are not named like their weights.
_MAP_NAMES = (("dit_model_", "dit_model_map_"), ("t5_", "t5_map_"), ("quant_model_", "quantization_map_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFiles:
    """Files of one network, later ones overlaying earlier ones, and which of its layers are quantised there."""

    files: tuple[Path, ...]
    layers: QuantizationMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """Where everything is that a model needs; the speech encoder's folder is not read by `wan`, and may be absent.

    `converted` is the precision of our own form, None for every other layout.
    """

    transformer: ComponentFiles
    text_encoder: ComponentFiles
    image_encoder: ComponentFiles
    vae: ComponentFiles
    tokenizer: Path
    config_json: Path
    speech: Path
    converted: str | None = None


def find_layout(config: ModelConfig, folder: Path, precision: Precision) -> CheckpointLayout:
    """The parts of `config` in `folder`, which holds bundles, is the base bundle or was written by `convert`.

    Raises `CheckpointError` where no layout is recognised; single files are missed by those who read them.
    """
    if is_converted(folder):
        return _converted_layout(config, folder, precision)
    base = _base_folder(config, folder)
    files = config.files
    places = list(dict.fromkeys((base, folder / files.audio, base.parent / files.audio, base.parent, folder)))
    return CheckpointLayout(
        transformer=_quantized(files.quantized, places, precision) or ComponentFiles(files=_shards(config, places)),
        text_encoder=_quantized(files.text_encoder_quantized, places, precision)
        or ComponentFiles(files=(_find(files.text_encoder, places),)),
        image_encoder=ComponentFiles(files=(_find(files.image_encoder, places),)),
        vae=ComponentFiles(files=(_find(files.vae, places),)),
        tokenizer=_find(files.tokenizer, places),
        speech=find_speech_encoder(config, folder),
        config_json=_find("config.json", places),
    )


def find_speech_encoder(config: ModelConfig, folder: Path) -> Path:
    """The folder of the speech encoder: in `folder`, or beside it where `folder` is the base bundle itself."""
    return _find(config.files.speech, [folder, folder.absolute().parent])


def is_converted(folder: Path) -> bool:
    """Whether `convert` wrote the folder, which then holds all that a model needs."""
    return (folder / MANIFEST).is_file()


def map_path(weights: Path) -> Path:
    """The map of a quantised file: of the same name, or of one of the published names."""
    stem = weights.stem
    names = [stem, *(stem.replace(old, new, 1) for old, new in _MAP_NAMES if stem.startswith(old))]
    paths = [weights.with_name(f"{name}.json") for name in names]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise CheckpointError(f"no map of {weights}; looked for {' and '.join(path.name for path in paths)}")
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """The description that `convert` leaves in a folder; `CheckpointError` for one that lacks something."""
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read: {error}") from error
    parts, quantized = manifest.get("parts"), manifest.get("quantised")
    whole = isinstance(parts, dict) and isinstance(quantized, dict) and {"model", "dtype"} <= manifest.keys()
    if not whole or not all(isinstance(parts.get(name), list) for name in COMPONENTS):  # type: ignore[union-attr]
        raise CheckpointError(f"{folder / MANIFEST} does not say what the folder holds")
    return manifest


def _converted_layout(config: ModelConfig, folder: Path, precision: Precision) -> CheckpointLayout:
    manifest = read_manifest(folder)
    if manifest["model"] != config.name:
        raise CheckpointError(f"{folder} holds {manifest['model']}, not {config.name}")
    if manifest["dtype"] not in ("bf16", precision):
        raise CheckpointError(f"{folder} was converted to {manifest['dtype']}; {precision} cannot be made of that")

    def part(name: str) -> ComponentFiles:
        layers = manifest["quantised"].get(name)
        return ComponentFiles(
            files=tuple(folder / file for file in manifest["parts"][name]),
            layers=None if layers is None else parse_map(layers, f"{folder / MANIFEST}, {name}"),
        )

    return CheckpointLayout(
        **{name: part(name) for name in COMPONENTS},
        tokenizer=folder / config.files.tokenizer,
        speech=folder / config.files.speech,
        config_json=folder / "config.json",
        converted=manifest["dtype"],
    )


def _base_folder(config: ModelConfig, folder: Path) -> Path:
    """The base bundle: a folder of its name, or `folder` itself."""
    named = folder / config.files.base
    if named.is_dir():
        return named
    if (folder / "config.json").is_file() or any(folder.glob(_SHARDS)):
        return folder
    raise CheckpointError(f"no weights of {config.name}: neither {named} nor {_SHARDS} in {folder}")


def _quantized(pattern: str, places: Iterable[Path], precision: Precision) -> ComponentFiles | None:
    """A quantised file of the wanted precision, if there is one."""
    if precision == "bf16":
        return None
    name = pattern.format(precision=precision)
    found = next((place / name for place in places if (place / name).is_file()), None)
    return None if found is None else ComponentFiles(files=(found,), layers=read_map(map_path(found)))


def _shards(config: ModelConfig, places: list[Path]) -> tuple[Path, ...]:
    """The base network's shards, then the audio layers; or a file, or shards, that hold both."""
    base = places[0]
    audio = [place / config.files.audio_weights for place in places]
    found = next((path for path in audio if path.is_file()), None)
    shards = tuple(path for path in sorted(base.glob(_SHARDS)) if path != found)
    if not shards:
        return (_merged_file(base),)
    if found is not None:
        return (*shards, found)
    if any(name.startswith(_AUDIO) for path in shards for name in open_safetensors(path)):
        return shards
    raise CheckpointError(f"no {config.files.audio_weights}; looked for {' and '.join(map(str, audio))}")


def _merged_file(base: Path) -> Path:
    """The only safetensors file of a folder without shards."""
    files = sorted(base.glob("*.safetensors"))
    if len(files) != 1:
        names = f": {', '.join(path.name for path in files)}" if files else ""
        raise CheckpointError(f"no {_SHARDS} in {base}, nor a single merged file{names}")
    return files[0]


def _find(name: str, places: list[Path]) -> Path:
    """The first that exists; otherwise where it belongs."""
    return next((place / name for place in places if (place / name).exists()), places[0] / name)
