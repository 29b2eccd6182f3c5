"""A LoRA's file: its tensors, the alpha that its metadata declares, and a digest of its content."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wan.checkpoint.tensor_files import truncate_names

MAX_TENSORS = 20_000
"""A LoRA with alpha and biases on every layer of the 14B network has about 3,000."""

_DIFFUSERS_CONFIG = "lora_adapter_metadata"
"""Metadata of files written by diffusers: PEFT's configuration as JSON, each name behind that of the network."""
_PEFT_CONFIG = "adapter_config.json"
_PEFT_WEIGHTS = "adapter_model.safetensors"
_KOHYA_ALPHA = "ss_network_alpha"
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""PEFT's initializations that also change the base weights, which a plain file does not hold."""
_ZIP_MAGIC = b"PK\x03\x04"


class LoraError(ValueError):
    """A LoRA does not fit the transformer; the message names it and lists keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A safetensors file, or its tensors by key, and the factor of its deltas. `name` stands for it in messages."""

    weights: Path | Mapping[str, Tensor]
    strength: float = 1.0
    name: str = ""

    def __str__(self) -> str:
        default = self.weights.name if isinstance(self.weights, Path) else f"LoRA of {len(self.weights)} tensors"
        return self.name or default


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaConfig:
    """What a file's metadata says about alpha, for layers without a tensor `alpha`.

    `alpha`, and `alpha_pattern` by the end of a layer's name: PEFT's, for keys with `lora_A`. `kohya_alpha`: for keys
    with `lora_down`; converters to `lora_A` multiply it into the matrices and keep the metadata. None: alpha is the
    rank.
    """

    alpha: float | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    kohya_alpha: float | None = None

    def scale(self, path: str, rank: int, *, is_peft: bool) -> float:
        """The factor of a layer's product; `path` is the layer's name in the file."""
        if not is_peft:
            return 1.0 if self.kohya_alpha is None else self.kohya_alpha / rank
        matching = (alpha for end, alpha in self.alpha_pattern.items() if f".{path}".endswith(f".{end}"))
        alpha = next(matching, self.alpha)
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_lora(lora: Lora) -> tuple[Mapping[str, Tensor], AlphaConfig]:
    """The tensors by key, and what the metadata says about alpha. Raises `LoraError` for a file that is unusable."""
    if isinstance(lora.weights, Mapping):
        return lora.weights, AlphaConfig()
    path = lora.weights
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if len(keys) > MAX_TENSORS:
                raise LoraError(f"{lora} has {len(keys):,} tensors; at most {MAX_TENSORS:,} are allowed")
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in keys}
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:  # the last ones: unknown dtypes
        raise LoraError(f"{lora} cannot be read as a safetensors file{_looks(path)}: {error}") from error
    return tensors, _alpha_config(lora, path, metadata)


def digest(path: Path) -> str:
    """SHA-256 of the file and of PEFT's configuration beside it."""
    sha256 = hashlib.sha256()
    for each in (path, *_config_file(path)):
        with each.open("rb") as file:
            sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()


def identity(path: Path) -> tuple[object, ...]:
    """Changes whenever the content of the file, or of PEFT's configuration beside it, may have changed."""
    stats = [each.stat() for each in (path, *_config_file(path))]
    return (path, *((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats))


def _config_file(path: Path) -> tuple[Path, ...]:
    """PEFT's configuration beside a file that has PEFT's name or is alone in its folder."""
    config = path.with_name(_PEFT_CONFIG)
    is_its_own = path.name == _PEFT_WEIGHTS or len(list(path.parent.glob("*.safetensors"))) == 1
    return (config,) if config.is_file() and is_its_own else ()


def _alpha_config(lora: Lora, path: Path, metadata: Mapping[str, str]) -> AlphaConfig:
    config: dict[str, Any] = {}
    if _DIFFUSERS_CONFIG in metadata:
        declared = _parse(lora, _DIFFUSERS_CONFIG, metadata[_DIFFUSERS_CONFIG])
        config = {key.removeprefix("transformer."): value for key, value in declared.items()}
    else:
        for each in _config_file(path):
            config = _parse(lora, each.name, each.read_text(encoding="utf-8", errors="replace"))
    if config.get("use_dora"):
        raise LoraError(f"{lora}: this is DoRA (magnitude vectors), by its metadata; only LoRA is supported")
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_BASE):
        raise LoraError(f"{lora}: its metadata says init_lora_weights {start!r}, which also changes the base weights")
    pattern = config.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise LoraError(f"{lora}: alpha_pattern in its metadata is {pattern!r:.100}; an object is needed")
    ends = {str(key).removeprefix("^").removesuffix("$").replace("\\.", "."): key for key in pattern}
    if expressions := [end for end in ends if set(end) & set("*+?[](){}|\\^$")]:
        raise LoraError(
            f"{lora}: alpha_pattern in its metadata has regular expressions, allowed are names of layers: "
            f"{truncate_names(expressions)}"
        )
    kohya = metadata.get(_KOHYA_ALPHA)
    return AlphaConfig(
        alpha=_number(lora, "lora_alpha", config.get("lora_alpha")),
        alpha_pattern={end: _number(lora, "alpha_pattern", pattern[key]) or 0.0 for end, key in ends.items()},
        use_rslora=config.get("use_rslora") is True,
        kohya_alpha=_number(lora, _KOHYA_ALPHA, None if kohya == "None" else kohya) or None,  # there 0 means the rank
    )


def _parse(lora: Lora, what: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"{lora}: {what} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise LoraError(f"{lora}: {what} is {config!r:.100}; an object is needed")
    return config


def _number(lora: Lora, what: str, value: object) -> float | None:
    """A finite number, or None. Raises `LoraError` for anything else."""
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LoraError(f"{lora}: {what} in its metadata is {value!r:.100}; a number is needed")
    return number


def _looks(path: Path) -> str:
    """What another file than safetensors looks like, in brackets."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return ""
    if not head:
        return " (it is empty)"
    if head.startswith((_ZIP_MAGIC, b"\x80")):
        return " (it looks like a PyTorch file; convert it to safetensors)"
    if head.lstrip().startswith(b"<"):
        return " (it looks like a web page; the address of the file itself is needed)"
    return " (it looks like a GGUF file)" if head.startswith(b"GGUF") else ""
