"""The LoRAs of a request: of `lora` or its preset, of `loras` from the operator's folders, and its own files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import weights
from app.inputs import MAX_LORAS, check_lora_files_allowed
from app.settings import Settings
from src.errors import InputError, truncated_repr
from src.media.file_type import local_path, probe
from wan.checkpoint.lora import Lora
from wan.sampling.options import choose_preset

MAX_STRENGTH = 2.0
_MAX_NAMES_SHOWN = 50


def find_loras(settings: Settings, inputs: Mapping[str, Any]) -> tuple[Lora, ...]:
    """The installed LoRAs that a request or its preset names, and the request's own; those of strength 0 left out.

    InputError for one that is not installed, for an invalid strength, for one that is named twice, and for own files
    that the operator does not allow.
    """
    files = own_files(settings, inputs["lora_files"] or ())
    listed = _listed(settings, inputs["loras"] or (), files)
    named = {lora.weights for lora in listed}
    others = [_own_lora(name, path) for name, path in files.items() if path not in named]
    loras = [lora for lora in (*_named(settings, inputs), *listed, *others) if lora.strength != 0]
    paths = [lora.weights for lora in loras]
    for i, lora in enumerate(loras):
        if lora.weights in paths[:i]:
            raise InputError(f"loras names {lora} twice (lora and preset count too); allowed is each LoRA once")
    return tuple(loras)


def own_files(settings: Settings, files: Sequence[Path | str]) -> dict[str, Path]:
    """The request's own files by the names that `loras` has for them: file1, file2, ..."""
    if not files:
        return {}
    check_lora_files_allowed(settings.lora_files)
    if len(files) > MAX_LORAS:
        raise InputError(f"lora_files has {len(files):,} files; at most {MAX_LORAS} are allowed")
    return {f"file{n}": _own_file(settings, file, f"lora_files (number {n})") for n, file in enumerate(files, 1)}


def _own_file(settings: Settings, file: Path | str, name: str) -> Path:
    media = probe(local_path(file, name=name, allowed=settings.limits.local_files), name=name)
    if media.size > settings.max_lora_bytes:
        raise media.error(f"is too large; at most {settings.max_lora_bytes:,} bytes are allowed (MAX_LORA_MB)")
    return media.path


def preset_name(inputs: Mapping[str, Any]) -> str | None:
    """The preset that a request names, or None."""
    return None if inputs["preset"] == "none" else inputs["preset"]


def installed_loras(settings: Settings) -> dict[str, Path | None]:
    """Every LoRA file of the operator's folders by its name without the suffix, and by its path below the folder.

    None for a name that two files in subfolders have; `MULTITALK_LORA_DIR` wins over the model's folder.
    """
    loras: dict[str, Path | None] = {}
    for folder in (settings.model_path / "loras", settings.lora_dir):
        if folder is None:
            continue
        here: dict[str, Path | None] = {}
        paths = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.safetensors")}
        for name, path in sorted(paths.items(), key=lambda item: (-len(item[0].parts), item[0])):  # subfolders first
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                here[name.name] = None if name.name in here and len(name.parts) > 1 else path
                here[name.as_posix()] = path
        loras |= here
    return loras


def _named(settings: Settings, inputs: Mapping[str, Any]) -> tuple[Lora, ...]:
    name, strength = inputs["lora"], inputs["lora_strength"]
    if name == "none":
        name = choose_preset(settings.config, inputs["turbo"], preset_name(inputs)).lora
    if name is None or strength == 0:
        return ()
    path = weights.locate_lora(settings.model_path, name)
    if path is None:
        download = f"python weights.py download {name} --dest {settings.model_path}"
        how = download if name in weights.BUNDLES else "it comes with the built-in model only"
        raise InputError(
            f"lora is {name!r}, which this server does not have; allowed is what the operator has installed "
            f"({how}), or none"
        )
    return (Lora(weights=path, strength=strength),)


def _listed(settings: Settings, items: Sequence[str], files: Mapping[str, Path]) -> list[Lora]:
    if not items:
        return []
    if len(items) > MAX_LORAS:
        raise InputError(f"loras has {len(items)} items; at most {MAX_LORAS} are allowed")
    available = {name: Lora(weights=path) if path else None for name, path in installed_loras(settings).items()}
    available |= {name: _own_lora(name, path) for name, path in files.items()}
    return [_listed_lora(settings, available, item) for item in items]


def _own_lora(name: str, path: Path) -> Lora:
    return Lora(weights=path, name=f"lora_files ({name})")


def _listed_lora(settings: Settings, available: Mapping[str, Lora | None], item: str) -> Lora:
    """The LoRA of `name` or `name:strength`."""
    name, colon, text = item.strip().rpartition(":")
    strength = _number(text) if colon else 1.0
    if not colon:
        name = text
    if strength is None or not abs(strength) <= MAX_STRENGTH:
        raise InputError(
            f"loras has {truncated_repr(item)}; allowed is name or name:strength, with a strength "
            f"from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
        )
    name = name.strip().removesuffix(".safetensors")
    lora = available.get(name)
    if lora is None and name in available:
        raise InputError(
            f"loras has {truncated_repr(item)}, which is the name of several files; allowed is folder/name"
        )
    if lora is None and _is_lora_bundle(name) and (path := weights.locate_lora(settings.model_path, name)):
        lora = Lora(weights=path)
    if lora is None:
        allowed = (
            ", ".join(sorted(name for name, file in available.items() if file)[:_MAX_NAMES_SHOWN])
            or "nothing: no LoRA is installed"
        )
        raise InputError(f"loras has {truncated_repr(item)}, which this server does not have; allowed is {allowed}")
    return replace(lora, strength=strength)


def _is_lora_bundle(name: str) -> bool:
    return name in weights.BUNDLES and weights.BUNDLES[name].lora


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
