"""Low-rank and full differences (Hu et al. 2021) merged into a transformer's weights, and taken out again.

Merging leaves nothing to compute in a forward. The originals of the weights that change are kept in host memory, so
that the next request starts from the very bits of the checkpoint. That costs as much memory as those weights: 32 GB
in bfloat16 for a LoRA on every linear layer of the 14B blocks except the audio ones, 20 GB for one on self attention
and feed-forward. The log says how much it is.

Weights in eight bits would round a small change away. Beside them the product of the two thin matrices is computed in
every forward, unrounded: at rank 64 that is 2.5 % of a square layer's operations at the 14B width, and there are no
originals to keep.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wan.checkpoint.tensor_files import truncate_names
from wan.modules.quantized import QuantizedLinear, quantized_layers

logger = logging.getLogger(__name__)

_PREFIXES = ("diffusion_model.", "diffusion.model.", "transformer.", "pipe.dit.")
_UNDERSCORED = "lora_unet__"
_DOWN, _UP, _ALPHA = "down", "up", "alpha"
# Ends of keys, and what they say of a layer.
_ENDS = (
    (re.compile(r"\.lora_(?:down|A)(?:\.default)?\.weight$"), _DOWN),
    (re.compile(r"\.lora_(?:up|B)(?:\.default)?\.weight$"), _UP),
    (re.compile(r"\.alpha$"), _ALPHA),
    (re.compile(r"\.diff$"), "weight"),
    (re.compile(r"\.diff_b$"), "bias"),
    (re.compile(r"\.diff_m$"), "modulation"),
)


class LoraError(ValueError):
    """A LoRA that cannot be merged; the message says which and lists names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A safetensors file, or its tensors, and how strongly it is applied."""

    source: Path | Mapping[str, Tensor]
    strength: float = 1.0

    def __str__(self) -> str:
        return self.source.name if isinstance(self.source, Path) else f"LoRA of {len(self.source)} tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDelta:
    """What one LoRA adds to one parameter: factor * up @ down, or factor * difference."""

    parameter: str
    factor: float
    tensors: tuple[Tensor, ...]

    def add_to(self, weight: Tensor) -> None:
        """Add to a float32 weight, in float32 and on its device."""
        parts = [tensor.to(weight.device, torch.float32) for tensor in self.tensors]
        change = parts[0] if len(parts) == 1 else parts[0].flatten(1) @ parts[1].flatten(1)
        weight += self.factor * change.reshape(weight.shape)


@dataclass(slots=True)
class LoraManager:
    """Which LoRAs a transformer has at present, the originals that undo them, and the layers that compute them."""

    merged: tuple[Lora, ...] = ()
    originals: dict[str, Tensor] = field(default_factory=dict)
    beside: list[QuantizedLinear] = field(default_factory=list)

    @torch.no_grad()
    def switch(self, model: nn.Module, wanted: Sequence[Lora]) -> None:
        """Leave `model` with exactly the wanted LoRAs, each on top of the checkpoint's own weights.

        Everything is checked before the first weight changes; a failure later leaves the model without LoRAs.
        Raises `LoraError` for a file that does not fit.
        """
        wanted = tuple(wanted)
        if all(isinstance(lora.source, Path) for lora in wanted) and self.merged == wanted:
            return
        changes: dict[str, list[WeightDelta]] = {}
        for lora in wanted:
            for change in read_deltas(model, lora):
                changes.setdefault(change.parameter, []).append(change)
        self.restore(model)
        try:
            for name, added in changes.items():
                layer = model.get_submodule(name.rpartition(".")[0])
                if isinstance(layer, QuantizedLinear) and name.endswith(".weight"):
                    self._compute(layer, added, like=next(model.parameters()))
                else:
                    self._merge(name, model.get_parameter(name), added)
        except BaseException:
            self.restore(model)
            raise
        self.merged = wanted
        if wanted:
            size = sum(original.nbytes for original in self.originals.values())
            names = ", ".join(f"{lora} at {lora.strength:g}" for lora in wanted)
            logger.info(
                "merged %s into %d weights, %d of them in eight bits; %d bytes of originals are kept",
                names,
                len(changes),
                len(self.beside),
                size,
            )

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Take every LoRA out: the checkpoint's weights to the last bit, and no memory kept."""
        self.merged = ()
        while self.originals:
            name, original = self.originals.popitem()
            model.get_parameter(name).copy_(original)
        while self.beside:
            self.beside.pop().set_lora(None, None)

    def _compute(self, layer: QuantizedLinear, changes: Iterable[WeightDelta], like: Tensor) -> None:
        """Beside the layer, in the dtype and on the device of `like`, a parameter that works on the same tokens."""
        pairs = [(change.factor * change.tensors[0].float(), change.tensors[1]) for change in changes]
        down = torch.cat([down.flatten(1).float() for _, down in pairs])
        up = torch.cat([up.flatten(1) for up, _ in pairs], dim=1)
        self.beside.append(layer)
        layer.set_lora(down.to(like), up.to(like))

    def _merge(self, name: str, parameter: Tensor, changes: Iterable[WeightDelta]) -> None:
        self.originals[name] = parameter.to("cpu", copy=True)
        weight = parameter.to(torch.float32, copy=True)
        for change in changes:
            change.add_to(weight)
        parameter.copy_(weight)


def read_deltas(model: nn.Module, lora: Lora) -> list[WeightDelta]:
    """What a LoRA adds to which parameters; keys that match nothing are logged by name."""
    tensors = lora.source if isinstance(lora.source, Mapping) else _read(lora.source)
    places = dict(match_keys(model, tensors))
    unmatched = sorted(tensors.keys() - places.keys())
    if not places:
        raise LoraError(f"{lora}: none of its {len(tensors)} keys belongs to this network: {truncate_names(unmatched)}")
    if unmatched:
        logger.warning(
            "%s: %d keys match nothing and are left out: %s", lora, len(unmatched), truncate_names(unmatched)
        )
    layers: dict[str, dict[str, Tensor]] = {}
    for key, (layer, role) in places.items():
        if role in layers.setdefault(layer, {}):
            raise LoraError(f"{lora}: {key} says again what another key says of {layer}")
        layers[layer][role] = tensors[key]
    whole = sorted(layer for layer in set(quantized_layers(model)) & layers.keys() if "weight" in layers[layer])
    if whole:
        raise LoraError(
            f"{lora}: weights in eight bits take no whole differences, as it has for {truncate_names(whole)}"
        )
    changes = [change for layer, parts in layers.items() for change in _deltas(lora, layer, parts)]
    _check_shapes(model, lora, changes)
    return changes


def match_keys(model: nn.Module, keys: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """For every key that belongs to the model: the layer, and what the key says of it."""
    layers = {name for name, _ in model.named_modules() if name}
    underscored = {name.replace(".", "_"): name for name in layers}
    parameters = {name for name, _ in model.named_parameters()}
    quantized = set(quantized_layers(model))
    for key in keys:
        path, role = _split(key)
        if path.startswith(_UNDERSCORED):
            layer = underscored.get(path.removeprefix(_UNDERSCORED), "")
        else:
            layer = path.removeprefix(next((prefix for prefix in _PREFIXES if path.startswith(prefix)), ""))
        if role == "modulation":
            layer = layer.removesuffix(".modulation")
        parameter = f"{layer}.{'weight' if role in (_DOWN, _UP, _ALPHA) else role}"
        if role and layer in layers and (parameter in parameters or layer in quantized):
            yield key, (layer, role)


def _split(key: str) -> tuple[str, str]:
    """The path of a key, and what its end says; "" for an end that is not known."""
    return next(((end.sub("", key), role) for end, role in _ENDS if end.search(key)), (key, ""))


def _deltas(lora: Lora, layer: str, parts: Mapping[str, Tensor]) -> Iterator[WeightDelta]:
    """The changes of one layer's parameters; half a product, or a factor without one, is an error."""
    if len({_DOWN, _UP} & parts.keys()) == 1 or (_ALPHA in parts and _UP not in parts):
        raise LoraError(f"{lora}: {layer} has a part of a product only: {', '.join(sorted(parts))}")
    odd = [role for role, tensor in parts.items() if not _is_sound(role, tensor)]
    if odd:
        raise LoraError(f"{lora}: {layer} has {', '.join(f'{role} {list(parts[role].shape)}' for role in odd)}")
    for role, tensor in parts.items():
        if role == _UP:
            rank = parts[_DOWN].shape[0]
            factor = lora.strength * (parts[_ALPHA].item() / rank if _ALPHA in parts else 1.0)
            yield WeightDelta(parameter=f"{layer}.weight", factor=factor, tensors=(tensor, parts[_DOWN]))
        elif role not in (_DOWN, _ALPHA):
            yield WeightDelta(parameter=f"{layer}.{role}", factor=lora.strength, tensors=(tensor,))


def _is_sound(role: str, tensor: Tensor) -> bool:
    """Whether a tensor can be what its key says: floating point, a matrix or a number where one is needed."""
    if role == _ALPHA:
        return tensor.numel() == 1
    matrix = tensor.ndim >= 2 and tensor.numel() > 0
    return tensor.is_floating_point() and (matrix or role not in (_DOWN, _UP))


def _check_shapes(model: nn.Module, lora: Lora, changes: Iterable[WeightDelta]) -> None:
    wrong = []
    for change in changes:
        shape, first = _shape(model, change.parameter), change.tensors[0].shape
        if len(change.tensors) == 1:
            fits = first == shape
        else:
            rank, inputs = change.tensors[1].shape[0], change.tensors[1][0].numel()
            fits = first[0] == shape[0] and first[1:].numel() == rank and inputs == shape[1:].numel()
        if not fits:
            theirs = " @ ".join(str(list(tensor.shape)) for tensor in change.tensors)
            wrong.append(f"{change.parameter} is {list(shape)}, not {theirs}")
    if wrong:
        raise LoraError(f"{lora}: {len(wrong)} of another shape: {truncate_names(wrong)}")


def _shape(model: nn.Module, parameter: str) -> torch.Size:
    layer = model.get_submodule(parameter.rpartition(".")[0])
    if isinstance(layer, QuantizedLinear) and parameter.endswith(".weight"):
        return layer.data.shape
    return model.get_parameter(parameter).shape


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} cannot be read: {error}") from error
