"""The LoRAs of a request: of `lora` or its preset, and of `loras`, found in the operator's folders by name."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import weights
from app.settings import Settings
from src.errors import InputError, truncated_repr
from wan.checkpoint.lora import Lora
from wan.sampling.options import choose_preset

MAX_LORAS = 8
MAX_STRENGTH = 2.0
_MAX_NAMES_SHOWN = 50


def find_loras(settings: Settings, inputs: Mapping[str, Any]) -> tuple[Lora, ...]:
    """The installed LoRAs that a request or its preset names, those of strength 0 left out.

    InputError for one that is not installed, for an invalid strength, and for one that is named twice.
    """
    named = _named(settings, inputs)
    loras = [lora for lora in (*named, *_listed(settings, inputs["loras"] or ())) if lora.strength != 0]
    paths = [lora.weights for lora in loras]
    for i, lora in enumerate(loras):
        if lora.weights in paths[:i]:
            raise InputError(f"loras names {lora} twice (lora and preset count too); allowed is each LoRA once")
    return tuple(loras)


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


def _listed(settings: Settings, items: Sequence[str]) -> list[Lora]:
    if not items:
        return []
    if len(items) > MAX_LORAS:
        raise InputError(f"loras has {len(items)} items; at most {MAX_LORAS} are allowed")
    installed = installed_loras(settings)
    return [_listed_lora(settings, installed, item) for item in items]


def _listed_lora(settings: Settings, installed: Mapping[str, Path | None], item: str) -> Lora:
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
    path = installed.get(name)
    if path is None and name in installed:
        raise InputError(
            f"loras has {truncated_repr(item)}, which is the name of several files; allowed is folder/name"
        )
    if path is None:
        path = weights.locate_lora(settings.model_path, name) if _is_lora_bundle(name) else None
    if path is None:
        allowed = (
            ", ".join(sorted(name for name, file in installed.items() if file)[:_MAX_NAMES_SHOWN])
            or "nothing: no LoRA is installed"
        )
        raise InputError(f"loras has {truncated_repr(item)}, which this server does not have; allowed is {allowed}")
    return Lora(weights=path, strength=strength)


def _is_lora_bundle(name: str) -> bool:
    return name in weights.BUNDLES and weights.BUNDLES[name].lora


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
