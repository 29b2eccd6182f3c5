"""From files to modules: find them, check every name both ways, cast on the way, assign.

Modules are built on the meta device, so that no second copy of the weights ever exists.
"""

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, CLIPVisionModel

from wan import naming
from wan.configs.schema import ImageEncoderConfig, ModelConfig, TransformerConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.transformer import FLOAT32_NAMES, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Any)
_LISTED = 20
_SHARDS = "diffusion_pytorch_model*.safetensors"


class CheckpointError(ValueError):
    """Weights that are absent, incomplete or of another network; the message lists names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The networks that `wan` runs, on one device."""

    transformer: MultiTalkTransformer
    vae: VideoVAE
    text_encoder: TextEncoder
    image_encoder: ImageEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a network's parameters go, and as what."""

    device: torch.device
    dtype: torch.dtype


CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)


def load_models(config: ModelConfig, folder: Path, device: torch.device) -> Models:
    """Every network of `config` from a folder of bundles, or from the base bundle itself.

    Raises `CheckpointError` for absent files, missing or unknown names, and other shapes.
    """
    base = _base_folder(config, folder)
    shards = transformer_files(config, folder)
    return Models(
        transformer=load_transformer(config, shards, base / "config.json", device),
        vae=load_vae(config, base / config.files.vae, device),
        text_encoder=load_text_encoder(config, base, device),
        image_encoder=load_image_encoder(config, base / config.files.image_encoder, device),
    )


def transformer_files(config: ModelConfig, folder: Path) -> list[Path]:
    """The base network's shards, then the audio layers, which add to or replace what the shards hold."""
    base = _base_folder(config, folder)
    audio = [place / config.files.audio_weights for place in (base, base.parent / config.files.audio)]
    found = [path for path in audio if path.is_file()]
    shards = [path for path in sorted(base.glob(_SHARDS)) if path not in found]
    if not shards:
        raise CheckpointError(f"no {_SHARDS} in {base}")
    if not found:
        raise CheckpointError(f"no {config.files.audio_weights}; looked for {' and '.join(map(str, audio))}")
    return [*shards, found[0]]


def load_transformer(
    config: ModelConfig, files: list[Path], config_json: Path, device: torch.device
) -> MultiTalkTransformer:
    """The video transformer from safetensors files, later ones overlaying earlier ones."""
    check_sizes(config.transformer, config_json)
    with torch.device("meta"):
        module = MultiTalkTransformer(config.transformer)
    owners = tensor_owners(files)
    check_names(module.state_dict().keys(), owners, "the video transformer")
    dtype = getattr(torch, config.dtype)
    tensors: dict[str, Tensor] = {}
    for path in files:
        wanted = [name for name, owner in owners.items() if owner == path]
        with safe_open(path, framework="pt", device=str(device)) as shard:
            for name in wanted:
                tensors[name] = shard.get_tensor(name).to(torch.float32 if stays_float32(name) else dtype)
    return assign(module, tensors)


def load_vae(config: ModelConfig, path: Path, device: torch.device) -> VideoVAE:
    """The VAE from its published `.pth`."""
    place = Placement(device=device, dtype=getattr(torch, config.vae_dtype))
    name = naming.vae_name(config.vae.num_res_blocks)
    return VideoVAE(load_library_module(lambda: build_vae(config.vae), name, read_pth(path), place=place))


def load_text_encoder(config: ModelConfig, base: Path, device: torch.device) -> TextEncoder:
    """The UMT5 encoder and its tokenizer from the base bundle."""
    folder = base / config.files.tokenizer
    if not folder.is_dir():
        raise CheckpointError(f"no tokenizer folder {folder}")
    module = load_library_module(
        lambda: build_text_encoder(config.text_encoder),
        naming.text_encoder_name,
        read_pth(base / config.files.text_encoder),
        place=Placement(device=device, dtype=getattr(torch, config.dtype)),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return TextEncoder(module, tokenizer, config.transformer.text_len)


def load_image_encoder(config: ModelConfig, path: Path, device: torch.device) -> ImageEncoder:
    """CLIP's vision tower from the published file of both towers."""
    place = Placement(device=device, dtype=getattr(torch, config.image_encoder_dtype))
    return ImageEncoder(load_image_module(config.image_encoder, read_pth(path), place))


def load_image_module(config: ImageEncoderConfig, tensors: Mapping[str, Tensor], place: Placement) -> CLIPVisionModel:
    """The vision tower, less its last block, from the tensors of the published file."""
    module = load_library_module(
        lambda: build_image_encoder(config),
        naming.image_encoder_name,
        naming.split_qkv(tensors),
        (*naming.IMAGE_UNUSED, f"visual.transformer.{config.num_layers - 1}."),
        place,
    )
    embeddings = module.embeddings
    # Not in any file, and still on the meta device.
    embeddings.register_buffer("position_ids", torch.arange(embeddings.num_positions, device=place.device)[None], False)
    return module


def stays_float32(name: str) -> bool:
    """Whether a transformer parameter is part of a float32 island."""
    return name.startswith(FLOAT32_NAMES) or name.endswith(FLOAT32_NAMES)


def read_pth(path: Path) -> dict[str, Tensor]:
    """A `.pth` file, memory mapped where its format allows; a pickle that needs code to run is refused."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is not a file of tensors only: {str(error).splitlines()[0]}") from error


def tensor_owners(files: Iterable[Path]) -> dict[str, Path]:
    """Which file each tensor is read from; the last file that has it wins."""
    owners: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as shard:
                owners.update(dict.fromkeys(shard.keys(), path))
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    return owners


def check_names(expected: Iterable[str], found: Iterable[str], what: str, unused: tuple[str, ...] = ()) -> None:
    """Raise `CheckpointError` that lists missing and unknown names; names under `unused` may be there."""
    expected, found = set(expected), set(found)
    unknown = {name for name in found - expected if not (unused and name.startswith(unused))}
    lists = [(word, sorted(names)) for word, names in (("missing", expected - found), ("unknown", unknown)) if names]
    if lists:
        raise CheckpointError(f"{what}: " + "; ".join(f"{len(n)} {w}: {_listing(n)}" for w, n in lists))


def check_sizes(config: TransformerConfig, path: Path) -> None:
    """Compare the checkpoint's own `config.json` with ours: head counts cannot be seen in shapes."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    published = json.loads(path.read_text())
    wrong = [
        f"{field.name} is {published[field.name]}, not {getattr(config, field.name)}"
        for field in fields(config)
        if field.name in published and published[field.name] != getattr(config, field.name)
    ]
    if wrong:
        raise CheckpointError(f"{path} describes another network: {'; '.join(wrong)}")


def assign(module: M, tensors: Mapping[str, Tensor]) -> M:
    """Make `tensors` the parameters of a meta module, in evaluation mode and without gradients."""
    state = module.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(state[name].shape)}"
        for name in state
        if tensors[name].shape != state[name].shape
    ]
    if shapes:
        raise CheckpointError(f"{type(module).__name__}: {len(shapes)} of another shape: {_listing(shapes)}")
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def load_library_module(
    build: Callable[[], M],
    name: naming.Naming,
    tensors: Mapping[str, Tensor],
    unused: tuple[str, ...] = (),
    place: Placement = CPU,
) -> M:
    """A library's module from tensors in their published naming; `unused` are beginnings of names to leave out."""
    with torch.device("meta"):
        module = build()
    names = {ours: name(ours) for ours in module.state_dict()}
    what = type(module).__name__
    check_names(names.values(), tensors, what, unused)
    placed = {published: tensors[published].to(place.device, place.dtype) for published in set(names.values())}
    return assign(module, {ours: placed[published] for ours, published in names.items()})


def _base_folder(config: ModelConfig, folder: Path) -> Path:
    """The base bundle: a folder of its name, or `folder` itself."""
    named = folder / config.files.base
    if named.is_dir():
        return named
    if any(folder.glob(_SHARDS)):
        return folder
    raise CheckpointError(f"no weights of {config.name}: neither {named} nor {_SHARDS} in {folder}")


def _listing(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
