"""One network of a model: its stored tensors by key, and how they become the parameters of a module.

Modules are built on the meta device and files are read in chunks, so that no second copy of the weights exists.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wan.checkpoint.keys import KeyMap
from wan.checkpoint.loading import (
    DATA_SUFFIX,
    ONE_REGION,
    SCALE_SUFFIX,
    Cast,
    Packed,
    Quantize,
    Regions,
    TensorReader,
    load_tensors,
)
from wan.checkpoint.quanto import QuantizationMap, activation_scales, check_layers
from wan.checkpoint.tensor_files import CheckpointError, EncodedTensor, TensorSource, truncate_names
from wan.modules.block_formats import BlockQuantizedLinear
from wan.modules.quantized import QuantizedLinear, quantize_linears

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Any)
_BLOCKS = "blocks."
"""Key prefix of the layers that are quantized."""


def _keep_none(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """How to load one network.

    `to_file_key`: file key of a parameter's name. `tensors`: stored tensors by file key; those whose keys start with
    `ignored_prefixes` are not read. `dtype`: of the loaded tensors; float32 where `keep_in_fp32` is true of the file
    key. `quantization_map`: layers that are stored quantized. `quantize_to`: 8-bit dtype of the linear layers of the
    blocks if the files are not quantized. `fp8_matmul`: whether quantized layers may multiply in fp8. `keep_packed`:
    whether linear layers of the blocks that are stored in fp8 or in a block format keep that form. `regions`: which
    tensors share host memory.
    """

    build: Callable[[], nn.Module]
    to_file_key: KeyMap
    tensors: Mapping[str, TensorSource]
    dtype: torch.dtype
    ignored_prefixes: tuple[str, ...] = ()
    keep_in_fp32: Callable[[str], bool] = _keep_none
    quantization_map: QuantizationMap | None = None
    quantize_to: torch.dtype | None = None
    fp8_matmul: bool = False
    keep_packed: bool = True
    regions: Regions = ONE_REGION


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A module on the meta device, readers by file key, the output that each parameter gets, and quantized layers."""

    module: Any
    readers: dict[str, TensorReader]
    outputs: dict[str, str]
    layers: QuantizationMap


@torch.inference_mode(False)  # Inference tensors could not be modified outside inference mode, nor by other threads.
def load_component(component: Component, device: torch.device) -> Any:
    """Build a network and load its weights onto `device`, in evaluation mode and without gradients."""
    plan = plan_loading(component)
    tensors = load_tensors(plan.readers, device, component.regions)
    return assign_weights(plan.module, {name: tensors[output] for name, output in plan.outputs.items()})


def plan_loading(component: Component) -> LoadPlan:
    """Raises `CheckpointError` with a list of keys unless module, files and quantization map match exactly."""
    with torch.device("meta"):
        module = component.build()
        file_keys = {name: component.to_file_key(name) for name in module.state_dict()}
        packed = _packed_layers(component, module)
        layers = {name: dtype for name, dtype in _quantized_layers(component, module).items() if name not in packed}
        quantize_linears(module, layers, component.fp8_matmul)
        for name, source in packed.items():
            module.set_submodule(name, _packed_linear(module.get_submodule(name), source, component))
    quantized = {component.to_file_key(f"{layer}.weight"): dtype for layer, dtype in layers.items()}
    readers = _make_readers(component, set(file_keys.values()), quantized, type(module).__name__)
    readers |= {file_keys[f"{layer}.weight"]: Packed(source) for layer, source in packed.items()}
    outputs = dict(file_keys)
    for layer in (*layers, *packed):
        weight = outputs.pop(f"{layer}.weight")
        outputs[f"{layer}.data"] = weight + DATA_SUFFIX
        if layer in layers or packed[layer].scale is not None:
            outputs[f"{layer}.scale"] = weight + SCALE_SUFFIX
    return LoadPlan(
        module=module,
        readers=readers,
        outputs=outputs,
        layers={weight.removesuffix(".weight"): dtype for weight, dtype in quantized.items()},
    )


def check_keys(
    expected: Iterable[str], found: Iterable[str], what: str, ignored_prefixes: tuple[str, ...] = ()
) -> None:
    """Raise `CheckpointError` that lists missing and unknown keys, except those with `ignored_prefixes`."""
    expected, found = set(expected), set(found)
    unknown = {key for key in found - expected if not (ignored_prefixes and key.startswith(ignored_prefixes))}
    lists = [(word, sorted(keys)) for word, keys in (("missing", expected - found), ("unknown", unknown)) if keys]
    if lists:
        raise CheckpointError(f"{what}: " + "; ".join(f"{len(n)} {w}: {truncate_names(n)}" for w, n in lists))


def assign_weights(module: M, tensors: Mapping[str, Tensor]) -> M:
    """Make `tensors` the parameters of a module on the meta device, in evaluation mode and without gradients."""
    state = module.state_dict()
    mismatches = [
        f"{name} is {list(tensors[name].shape)}, not {list(state[name].shape)}"
        for name in state
        if tensors[name].shape != state[name].shape
    ]
    if mismatches:
        raise CheckpointError(
            f"{type(module).__name__}: {len(mismatches)} of another shape: {truncate_names(mismatches)}"
        )
    module.load_state_dict(tensors, assign=True)
    _tie_weights(module, tensors)
    return module.eval().requires_grad_(False)


def _tie_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Re-tie shared weights, which `load_state_dict(assign=True)` untied."""
    parameters = dict(module.named_parameters())
    owners: dict[int, str] = {}
    for name in parameters:
        owner = owners.setdefault(id(tensors[name]), name)
        if owner != name:
            submodule, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(submodule), attribute, parameters[owner])


def _quantized_layers(component: Component, module: nn.Module) -> dict[str, torch.dtype]:
    """Module names and dtypes of the linear layers that are stored quantized, or quantized on loading."""
    linears = {
        name: component.to_file_key(f"{name}.weight").removesuffix(".weight")
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    if component.quantization_map is not None:
        stored = component.quantization_map
        return {name: stored[key] for name, key in linears.items() if key in stored}
    if component.quantize_to is None:
        return {}
    return {name: component.quantize_to for name, key in linears.items() if key.startswith(_BLOCKS)}


def _packed_layers(component: Component, module: nn.Module) -> dict[str, EncodedTensor]:
    """Linear layers of the blocks, by module name, whose weights are stored in a form that a layer can keep."""
    if component.quantization_map is not None or not component.keep_packed:
        return {}
    packed = {}
    for name, layer in module.named_modules():
        key = component.to_file_key(f"{name}.weight")
        source = component.tensors.get(key)
        if not (isinstance(layer, nn.Linear) and key.startswith(_BLOCKS) and isinstance(source, EncodedTensor)):
            continue
        if source.is_linear_format and source.shape == (layer.out_features, layer.in_features):
            packed[name] = source
    _warn_about_precision(component, packed)
    return packed


def _warn_about_precision(component: Component, packed: Mapping[str, EncodedTensor]) -> None:
    """Say which layers keep the form of the file although another precision is wanted."""
    forms = Counter(source.block_format or dtype_name(source.stored.dtype) for source in packed.values())
    wanted = component.quantize_to and dtype_name(component.quantize_to)
    for form, count in sorted(forms.items()):
        if wanted not in (None, form):
            logger.warning("%d layers stay in %s, the form of the file, not %s", count, form, wanted)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")


def _packed_linear(linear: nn.Module, source: EncodedTensor, component: Component) -> QuantizedLinear:
    """An uninitialized layer of the stored form. It multiplies in fp8 only where that is asked for."""
    assert isinstance(linear, nn.Linear)
    bias = linear.bias is not None
    if source.block_format:
        return BlockQuantizedLinear(linear.in_features, linear.out_features, bias, source.block_format)
    dtype = source.stored.dtype
    fp8_matmul = component.fp8_matmul and component.quantize_to == dtype
    return QuantizedLinear(linear.in_features, linear.out_features, bias, dtype, fp8_matmul)


def _make_readers(
    component: Component, keys: set[str], quantized: QuantizationMap, what: str
) -> dict[str, TensorReader]:
    """Readers by file key; `keys` are those of all parameters, `quantized` the weights among them that have 8 bits."""
    plain = keys - quantized.keys()
    tensors = component.tensors
    if component.quantization_map is None:
        check_keys(keys, tensors, what, component.ignored_prefixes)
        readers: dict[str, TensorReader] = {key: Quantize(tensors[key], dtype) for key, dtype in quantized.items()}
    else:
        check_layers(component.quantization_map, {key: tensor.dtype for key, tensor in tensors.items()}, what)
        stored = {key + DATA_SUFFIX: dtype for key, dtype in quantized.items()}
        stored |= dict.fromkeys((key + SCALE_SUFFIX for key in quantized), torch.float32)
        present = tensors.keys() - activation_scales(component.quantization_map)
        check_keys(plain | stored.keys(), present, what, component.ignored_prefixes)
        readers = {key: Cast(tensors[key], dtype) for key, dtype in stored.items()}
    _check_floating_point({key: tensors[key] for key in keys & tensors.keys()}, what)
    for key in plain:
        readers[key] = Cast(tensors[key], torch.float32 if component.keep_in_fp32(key) else component.dtype)
    return readers


def _check_floating_point(tensors: Mapping[str, TensorSource], what: str) -> None:
    """Integer weights are the data of a quantized file whose quantization map is missing."""
    wrong = [f"{key} is {tensor.dtype}" for key, tensor in tensors.items() if not tensor.dtype.is_floating_point]
    if wrong:
        raise CheckpointError(f"{what}: {len(wrong)} not in floating point: {truncate_names(sorted(wrong))}")
