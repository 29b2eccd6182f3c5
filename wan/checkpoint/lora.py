"""LoRA (Hu et al. 2021): low-rank and full weight deltas, merged into a transformer and unloaded again.

Merged deltas cost nothing in a forward. The original weights are kept in host memory, so that unloading restores the
checkpoint bit for bit. They take as much memory as the changed weights: 32 GB in bfloat16 for a LoRA on every linear
layer of the 14B blocks except the audio ones, 20 GB for one on self-attention and feed-forward. The size is logged.

Merging into 8-bit weights would round small deltas to zero. For these layers the low-rank product is computed in every
forward instead: at rank 64 that is 2.5 % of a square layer's operations at the 14B width, and no originals are kept.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wan.checkpoint.lora_keys import (
    ALPHA,
    DOWN,
    UP,
    UP_BIAS,
    describe_keys,
    describe_width,
    match_keys,
    unsupported_method,
)
from wan.checkpoint.tensor_files import truncate_names
from wan.modules.quantized import QuantizedLinear, quantized_layers

logger = logging.getLogger(__name__)


class LoraError(ValueError):
    """A LoRA does not fit the transformer; the message names it and lists keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A safetensors file, or its tensors by key, and the factor of its deltas."""

    weights: Path | Mapping[str, Tensor]
    strength: float = 1.0

    def __str__(self) -> str:
        return self.weights.name if isinstance(self.weights, Path) else f"LoRA of {len(self.weights)} tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDelta:
    """What one LoRA adds to one parameter: `factor * up @ down` for two tensors, `factor * delta` for one."""

    parameter: str
    factor: float
    tensors: tuple[Tensor, ...]

    def add_to(self, weight: Tensor) -> None:
        """Add to a float32 weight in place, on its device."""
        tensors = [tensor.to(weight.device, torch.float32) for tensor in self.tensors]
        delta = tensors[0] if len(tensors) == 1 else tensors[0].flatten(1) @ tensors[1].flatten(1)
        weight += self.factor * delta.reshape(weight.shape)


@dataclass(slots=True)
class LoraManager:
    """The active LoRAs of a transformer, the original weights, and the quantized layers that compute a LoRA."""

    active: tuple[Lora, ...] = ()
    originals: dict[str, Tensor] = field(default_factory=dict)
    unmerged_layers: list[QuantizedLinear] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    """What the files of the active LoRAs hold that is ignored."""

    @torch.no_grad()
    def set_active(self, model: nn.Module, loras: Sequence[Lora]) -> None:
        """Make exactly these LoRAs active in `model`, starting from the checkpoint's weights.

        All files are validated before the first weight changes; a later failure unloads every LoRA.
        Raises `LoraError` for a file that does not fit.
        """
        loras = tuple(loras)
        if all(isinstance(lora.weights, Path) for lora in loras) and self.active == loras:
            return
        deltas: dict[str, list[WeightDelta]] = {}
        warnings: list[str] = []
        for lora in loras:
            for delta in read_deltas(model, lora, warnings):
                deltas.setdefault(delta.parameter, []).append(delta)
        self.unload(model)
        try:
            for name, added in deltas.items():
                layer = model.get_submodule(name.rpartition(".")[0])
                if isinstance(layer, QuantizedLinear) and name.endswith(".weight"):
                    self._set_unmerged(layer, added, like=next(model.parameters()))
                else:
                    self._merge(name, model.get_parameter(name), added)
        except BaseException:
            self.unload(model)
            raise
        self.active, self.warnings = loras, tuple(warnings)
        if loras:
            logger.info(
                "merged %s into %d weights, %d of them quantized; %d bytes of originals are kept",
                ", ".join(f"{lora} at {lora.strength:g}" for lora in loras),
                len(deltas),
                len(self.unmerged_layers),
                sum(original.nbytes for original in self.originals.values()),
            )

    @torch.no_grad()
    def unload(self, model: nn.Module) -> None:
        """Restore the checkpoint's weights bit for bit and free the originals."""
        self.active = self.warnings = ()
        while self.originals:
            name, original = self.originals.popitem()
            model.get_parameter(name).copy_(original)
        while self.unmerged_layers:
            self.unmerged_layers.pop().set_lora(None, None)

    def _set_unmerged(self, layer: QuantizedLinear, deltas: Iterable[WeightDelta], like: Tensor) -> None:
        """Let a quantized layer compute the low-rank product, in the dtype and on the device of `like`."""
        pairs = [(delta.factor * delta.tensors[0].float(), delta.tensors[1]) for delta in deltas]
        down = torch.cat([down.flatten(1).float() for _, down in pairs])
        up = torch.cat([up.flatten(1) for up, _ in pairs], dim=1)
        self.unmerged_layers.append(layer)
        layer.set_lora(down.to(like), up.to(like))

    def _merge(self, name: str, parameter: Tensor, deltas: Iterable[WeightDelta]) -> None:
        self.originals[name] = parameter.to("cpu", copy=True)
        weight = parameter.to(torch.float32, copy=True)
        for delta in deltas:
            delta.add_to(weight)
        parameter.copy_(weight)


def read_deltas(model: nn.Module, lora: Lora, warnings: list[str]) -> list[WeightDelta]:
    """The deltas of a LoRA for the parameters of `model`; `warnings` gets what is ignored, which is also logged.

    Raises `LoraError` for another method than LoRA, if nothing fits, and for inconsistent or invalid tensors.
    """
    tensors = lora.weights if isinstance(lora.weights, Mapping) else _read_file(lora.weights)
    if method := unsupported_method(tensors):
        raise LoraError(f"{lora}: this is {method}; only LoRA (products of two matrices) and full deltas are supported")
    matches = dict(match_keys(model, tensors))
    unmatched = sorted(tensors.keys() - matches.keys())
    if not matches:
        raise LoraError(
            f"{lora}: none of its {len(tensors)} keys belongs to this network; it looks like {describe_keys(tensors)}: "
            f"{truncate_names(unmatched)}"
        )
    if unmatched:
        _warn(warnings, f"{lora}: {len(unmatched)} unmatched keys are ignored: {truncate_names(unmatched)}")
    layers: dict[str, dict[str, Tensor]] = {}
    for key, (layer, role) in matches.items():
        if role in layers.setdefault(layer, {}):
            raise LoraError(f"{lora}: {key} duplicates another key of {layer}")
        layers[layer][role] = tensors[key]
    full_diffs = sorted(layer for layer in set(quantized_layers(model)) & layers.keys() if "weight" in layers[layer])
    if full_diffs:
        raise LoraError(
            f"{lora}: quantized weights support low-rank deltas only, not the full ones of {truncate_names(full_diffs)}"
        )
    deltas = [delta for layer, roles in layers.items() for delta in _deltas(lora, layer, roles)]
    return _fitting(model, lora, deltas, warnings)


def _warn(warnings: list[str], message: str) -> None:
    logger.warning("%s", message)
    warnings.append(message)


def _deltas(lora: Lora, layer: str, roles: Mapping[str, Tensor]) -> Iterator[WeightDelta]:
    """The deltas of one layer's parameters; raises `LoraError` for an incomplete product or an invalid tensor."""
    if len({DOWN, UP} & roles.keys()) == 1 or ({ALPHA, UP_BIAS} & roles.keys() and UP not in roles):
        raise LoraError(f"{lora}: {layer} has an incomplete product: {', '.join(sorted(roles))}")
    invalid = [f"{role} {list(tensor.shape)}" for role, tensor in roles.items() if not _is_valid(role, tensor)]
    if invalid:
        raise LoraError(f"{lora}: {layer} has {', '.join(invalid)}")
    scale = 1.0
    if UP in roles:
        rank = roles[DOWN].shape[0]
        scale = roles[ALPHA].item() / rank if ALPHA in roles else 1.0
        if roles[UP].shape[1:].numel() != rank:
            shapes = f"{list(roles[UP].shape)} @ {list(roles[DOWN].shape)}"
            raise LoraError(f"{lora}: {layer} needs matrices of one rank, not {shapes}")
    for role, tensor in roles.items():
        if role == UP:
            product = (tensor, roles[DOWN])
            yield WeightDelta(parameter=f"{layer}.weight", factor=lora.strength * scale, tensors=product)
        elif role == UP_BIAS:
            yield WeightDelta(parameter=f"{layer}.bias", factor=lora.strength * scale, tensors=(tensor,))
        elif role not in (DOWN, ALPHA):
            yield WeightDelta(parameter=f"{layer}.{role}", factor=lora.strength, tensors=(tensor,))


def _is_valid(role: str, tensor: Tensor) -> bool:
    """Whether alpha is one number, factors are floating-point matrices, and full deltas are floating point."""
    if role == ALPHA:
        return tensor.numel() == 1
    is_matrix = tensor.ndim >= 2 and tensor.numel() > 0
    return tensor.is_floating_point() and (is_matrix or role not in (DOWN, UP))


def _fitting(model: nn.Module, lora: Lora, deltas: Iterable[WeightDelta], warnings: list[str]) -> list[WeightDelta]:
    """The deltas that have the shape of their parameter; a warning lists the others.

    Raises `LoraError` if no delta fits, or none of those for the blocks: then the file is for another network.
    """
    fitting: list[WeightDelta] = []
    others: list[WeightDelta] = []
    mismatches = []
    for delta in deltas:
        shape, first = _shape(model, delta.parameter), delta.tensors[0].shape
        if len(delta.tensors) == 1:
            fits = first == shape
        else:
            fits = first[0] == shape[0] and delta.tensors[1][0].numel() == shape[1:].numel()
        (fitting if fits else others).append(delta)
        if not fits:
            shapes = " @ ".join(str(list(tensor.shape)) for tensor in delta.tensors)
            mismatches.append(f"{delta.parameter} is {list(shape)}, not {shapes}")
    text = truncate_names(mismatches)
    if mismatches and (not fitting or (_in_blocks(others) and not _in_blocks(fitting))):
        raise LoraError(f"{lora}: nothing fits; it looks like {_describe_shapes(others)}: {text}")
    if mismatches:
        _warn(warnings, f"{lora}: {len(mismatches)} deltas of another shape are ignored: {text}")
    return fitting


def _in_blocks(deltas: Iterable[WeightDelta]) -> bool:
    return any(delta.parameter.startswith("blocks.") for delta in deltas)


def _describe_shapes(deltas: Iterable[WeightDelta]) -> str:
    rows = Counter(
        delta.tensors[0].shape[0] for delta in deltas if "_attn." in delta.parameter and delta.tensors[0].ndim
    )
    return describe_width(rows.most_common(1)[0][0]) if rows else "a LoRA for another network or task"


def _shape(model: nn.Module, parameter: str) -> torch.Size:
    layer = model.get_submodule(parameter.rpartition(".")[0])
    if isinstance(layer, QuantizedLinear) and parameter.endswith(".weight"):
        return layer.shape
    return model.get_parameter(parameter).shape


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} cannot be read: {error}") from error
