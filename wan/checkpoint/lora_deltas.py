"""The deltas that a LoRA adds to a transformer's parameters, validated against their names and shapes."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wan.checkpoint.lora_file import Lora, LoraError, read_lora
from wan.checkpoint.lora_keys import (
    ALPHA,
    DOWN,
    UP,
    UP_BIAS,
    describe_keys,
    describe_width,
    is_peft_key,
    layer_in_file,
    match_keys,
    unsupported_method,
)
from wan.checkpoint.tensor_files import DTYPES, truncate_names
from wan.modules.quantized import QuantizedLinear, quantized_layers

logger = logging.getLogger(__name__)


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


def read_deltas(model: nn.Module, lora: Lora, warnings: list[str]) -> list[WeightDelta]:
    """The deltas of a LoRA for the parameters of `model`; `warnings` gets what is ignored, which is also logged.

    Raises `LoraError` for another method than LoRA, if nothing fits, and for inconsistent or invalid tensors.
    """
    tensors, alpha_config = read_lora(lora)
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
    scales: dict[str, float] = {}
    for key, (layer, role) in matches.items():
        if role in layers.setdefault(layer, {}):
            raise LoraError(f"{lora}: {key} duplicates another key of {layer}")
        layers[layer][role] = tensors[key]
        if role == DOWN and tensors[key].shape[:1].numel():
            scales[layer] = alpha_config.scale(layer_in_file(key), len(tensors[key]), is_peft=is_peft_key(key))
    full_diffs = sorted(layer for layer in set(quantized_layers(model)) & layers.keys() if "weight" in layers[layer])
    if full_diffs:
        raise LoraError(
            f"{lora}: quantized weights support low-rank deltas only, not the full ones of {truncate_names(full_diffs)}"
        )
    deltas = [delta for layer, roles in layers.items() for delta in _deltas(lora, layer, roles, scales.get(layer, 1.0))]
    fitting = _fitting(model, lora, deltas, warnings)
    if not any(delta.factor and all(tensor.float().any() for tensor in delta.tensors) for delta in fitting):
        _warn(warnings, f"{lora} changes nothing: its strength, its alpha or its matrices are zero")
    return fitting


def _warn(warnings: list[str], message: str) -> None:
    logger.warning("%s", message)
    warnings.append(message)


def _deltas(lora: Lora, layer: str, roles: Mapping[str, Tensor], scale: float) -> Iterator[WeightDelta]:
    """The deltas of one layer's parameters; raises `LoraError` for an incomplete product or an invalid tensor.

    `scale` is that of the product where the layer has no tensor `alpha`.
    """
    if len({DOWN, UP} & roles.keys()) == 1 or ({ALPHA, UP_BIAS} & roles.keys() and UP not in roles):
        raise LoraError(f"{lora}: {layer} has an incomplete product: {', '.join(sorted(roles))}")
    invalid = [
        f"{role} {list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
        for role, tensor in roles.items()
        if not _is_valid(role, tensor)
    ]
    if invalid:
        raise LoraError(f"{lora}: {layer} has {', '.join(invalid)}; matrices in floating point are needed")
    if not_finite := [role for role, tensor in roles.items() if not tensor.float().isfinite().all()]:
        raise LoraError(f"{lora}: {layer} has NaN or Inf in {', '.join(not_finite)}; finite values are needed")
    if UP in roles:
        rank = roles[DOWN].shape[0]
        scale = roles[ALPHA].item() / rank if ALPHA in roles else scale
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
    if tensor.dtype not in DTYPES.values():
        return False
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
