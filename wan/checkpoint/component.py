"""One network: its stored tensors under published names, and how they become the parameters of a module.

Modules are built on the meta device and files are read in pieces, so that no second copy of the weights ever exists.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wan.checkpoint.keys import KeyMap
from wan.checkpoint.loading import DATA_SUFFIX, SCALE_SUFFIX, Cast, Quantize, TensorReader, load_tensors
from wan.checkpoint.quanto import QuantizationMap, activation_scales, check_layers
from wan.checkpoint.tensor_files import CheckpointError, TensorSource, truncate_names
from wan.modules.quantized import quantize_linears

M = TypeVar("M", bound=Any)
_BLOCKS = "blocks."
"""Beginning of the published names of layers that we quantise."""


def _no_islands(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What a network is made of.

    `name` gives the published name of a parameter; beginnings of names in `unused` may be in the files and are left
    there. `dtype` is what tensors become, float32 if `is_island` says so of their published name. `stored` are the
    layers that are quantised in the files; `eight_bits`, in files without such, is what the linear layers of the
    blocks become. `products`: whether eight-bit layers may multiply in fp8.
    """

    build: Callable[[], nn.Module]
    name: KeyMap
    tensors: Mapping[str, TensorSource]
    dtype: torch.dtype
    unused: tuple[str, ...] = ()
    is_island: Callable[[str], bool] = _no_islands
    stored: QuantizationMap | None = None
    eight_bits: torch.dtype | None = None
    products: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A module on the meta device, what to read for it by published name, and which result each parameter is."""

    module: Any
    reads: dict[str, TensorReader]
    results: dict[str, str]
    layers: QuantizationMap


@torch.inference_mode(False)  # Weights made in inference mode could not be changed outside it, nor in other threads.
def load_component(part: Component, device: torch.device) -> Any:
    """The network on `device`, every parameter read, in evaluation mode and without gradients."""
    plan = plan_loading(part)
    tensors = load_tensors(plan.reads, device)
    return assign_weights(plan.module, {ours: tensors[result] for ours, result in plan.results.items()})


def plan_loading(part: Component) -> LoadPlan:
    """Raises `CheckpointError` with a list of names unless module, files and map fit each other exactly."""
    with torch.device("meta"):
        module = part.build()
        names = {ours: part.name(ours) for ours in module.state_dict()}
        layers = _eight_bit_layers(part, module)
        quantize_linears(module, layers, part.products)
    published = {part.name(f"{ours}.weight"): dtype for ours, dtype in layers.items()}
    reads = _reads(part, set(names.values()), published, type(module).__name__)
    for ours in layers:
        weight = names.pop(f"{ours}.weight")
        names |= {f"{ours}.data": weight + DATA_SUFFIX, f"{ours}.scale": weight + SCALE_SUFFIX}
    return LoadPlan(
        module=module,
        reads=reads,
        results=names,
        layers={weight.removesuffix(".weight"): dtype for weight, dtype in published.items()},
    )


def check_names(expected: Iterable[str], found: Iterable[str], what: str, unused: tuple[str, ...] = ()) -> None:
    """Raise `CheckpointError` that lists missing and unknown names; names under `unused` may be there."""
    expected, found = set(expected), set(found)
    unknown = {name for name in found - expected if not (unused and name.startswith(unused))}
    lists = [(word, sorted(names)) for word, names in (("missing", expected - found), ("unknown", unknown)) if names]
    if lists:
        raise CheckpointError(f"{what}: " + "; ".join(f"{len(n)} {w}: {truncate_names(n)}" for w, n in lists))


def assign_weights(module: M, tensors: Mapping[str, Tensor]) -> M:
    """Make `tensors` the parameters of a meta module, in evaluation mode and without gradients."""
    state = module.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(state[name].shape)}"
        for name in state
        if tensors[name].shape != state[name].shape
    ]
    if shapes:
        raise CheckpointError(f"{type(module).__name__}: {len(shapes)} of another shape: {truncate_names(shapes)}")
    module.load_state_dict(tensors, assign=True)
    _tie(module, tensors)
    return module.eval().requires_grad_(False)


def _tie(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """One parameter for a tensor of several names: as two it would be counted twice, and be two once it is moved."""
    parameters = dict(module.named_parameters())
    owners: dict[int, str] = {}
    for name in parameters:
        owner = owners.setdefault(id(tensors[name]), name)
        if owner != name:
            place, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(place), attribute, parameters[owner])


def _eight_bit_layers(part: Component, module: nn.Module) -> dict[str, torch.dtype]:
    """Our names of the linear layers that are, or become, quantised."""
    linears = {
        ours: part.name(f"{ours}.weight").removesuffix(".weight")
        for ours, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    if part.stored is not None:
        return {ours: part.stored[name] for ours, name in linears.items() if name in part.stored}
    if part.eight_bits is None:
        return {}
    return {ours: part.eight_bits for ours, name in linears.items() if name.startswith(_BLOCKS)}


def _reads(part: Component, names: set[str], quantized: QuantizationMap, what: str) -> dict[str, TensorReader]:
    """What to read: `names` are all the published ones, `quantized` the weights among them in eight bits."""
    plain = names - quantized.keys()
    if part.stored is None:
        check_names(names, part.tensors, what, part.unused)
        reads: dict[str, TensorReader] = {
            name: Quantize(part.tensors[name], dtype) for name, dtype in quantized.items()
        }
    else:
        check_layers(part.stored, {name: tensor.dtype for name, tensor in part.tensors.items()}, what)
        halves = {name + DATA_SUFFIX: dtype for name, dtype in quantized.items()}
        halves |= dict.fromkeys((name + SCALE_SUFFIX for name in quantized), torch.float32)
        present = part.tensors.keys() - activation_scales(part.stored)
        check_names(plain | halves.keys(), present, what, part.unused)
        reads = {name: Cast(part.tensors[name], dtype) for name, dtype in halves.items()}
    _check_floats({name: part.tensors[name] for name in names & part.tensors.keys()}, what)
    islands = {name for name in plain if part.is_island(name)}
    return reads | {name: Cast(part.tensors[name], torch.float32 if name in islands else part.dtype) for name in plain}


def _check_floats(tensors: Mapping[str, TensorSource], what: str) -> None:
    """Whole numbers without a map are the data of quantised weights, and no weights."""
    wrong = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if not tensor.dtype.is_floating_point]
    if wrong:
        raise CheckpointError(f"{what}: {len(wrong)} not in floating point: {truncate_names(sorted(wrong))}")
