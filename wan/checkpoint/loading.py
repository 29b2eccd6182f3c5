"""Readers that cast or quantize a stored tensor chunk by chunk, and parallel loading of many of them.

`load_tensors` and `convert` share the readers, so that a converted file holds exactly the values that loading gives.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wan.checkpoint.tensor_files import EncodedTensor, TensorSlice, TensorSource, read_into, read_rows, row_chunks
from wan.host_memory import align, allocate_region
from wan.modules.quantized import quantize_rows

NUM_THREADS = 4
DATA_SUFFIX, SCALE_SUFFIX = "._data", "._scale"
"""Suffixes of the two tensors of a quantized weight in optimum-quanto's files, and in converted ones."""


class TensorSpec(NamedTuple):
    """Shape and dtype of an output tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorReader(Protocol):
    """One stored tensor, and the output tensors made of it by the suffix of their names."""

    @property
    def source(self) -> TensorSource: ...

    @property
    def outputs(self) -> dict[str, TensorSpec]: ...

    def read_chunk(self, rows: slice, device: torch.device) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Cast:
    """The stored tensor in another dtype."""

    source: TensorSource
    dtype: torch.dtype

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return {"": TensorSpec(tuple(self.source.shape), self.dtype)}

    def read_chunk(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        return {"": read_rows(self.source, rows).to(device).to(self.dtype)}


@dataclass(frozen=True, slots=True)
class Quantize:
    """A stored matrix as 8-bit data and one float32 scale per row."""

    source: TensorSource
    dtype: torch.dtype

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return {
            DATA_SUFFIX: TensorSpec(tuple(self.source.shape), self.dtype),
            SCALE_SUFFIX: TensorSpec((self.source.shape[0], 1), torch.float32),
        }

    def read_chunk(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        data, scale = quantize_rows(read_rows(self.source, rows).to(device), self.dtype)
        return {DATA_SUFFIX: data, SCALE_SUFFIX: scale}


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix in its stored form, and the scale of each row if it has one."""

    source: EncodedTensor

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        stored = self.source.stored
        outputs = {DATA_SUFFIX: TensorSpec(tuple(stored.shape), stored.dtype)}
        if self.source.scale is not None:
            outputs[SCALE_SUFFIX] = TensorSpec(tuple(self.source.scale.shape), torch.float32)
        return outputs

    def read_chunk(self, rows: slice, device: torch.device) -> dict[str, Tensor]:
        chunks = {DATA_SUFFIX: read_rows(self.source.stored, rows).to(device)}
        if self.source.scale is not None:
            chunks[SCALE_SUFFIX] = self.source.scale[rows].to(device)
        return chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """How tensors share host memory: by the region of their file key. Those of `on_host` are not put on a GPU."""

    region_of: Callable[[str], str]
    on_host: frozenset[str] = frozenset()

    def device_of(self, region: str, device: torch.device) -> torch.device:
        """Where a region is loaded to."""
        return torch.device("cpu") if region in self.on_host else device


ONE_REGION = Regions(region_of=lambda _: "")


def allocate(
    readers: Mapping[str, TensorReader], device: torch.device, regions: Regions
) -> dict[str, dict[str, Tensor]]:
    """Uninitialized output tensors of all readers, by name and suffix.

    On the host those of one region are views of one mapping, which leaves memory with the last of them.
    """
    sizes: Counter[str] = Counter()
    offsets: dict[tuple[str, str], int] = {}
    for name, reader in readers.items():
        region = regions.region_of(name)
        for suffix, spec in reader.outputs.items() if regions.device_of(region, device).type == "cpu" else ():
            offsets[name, suffix] = sizes[region]
            sizes[region] += align(spec.nbytes)
    mappings = {region: allocate_region(size) for region, size in sizes.items()}

    def make(name: str, suffix: str, spec: TensorSpec) -> Tensor:
        if (name, suffix) not in offsets:
            return torch.empty(spec.shape, dtype=spec.dtype, device=device)
        start = offsets[name, suffix]
        mapping = mappings[regions.region_of(name)]
        return mapping[start : start + spec.nbytes].view(spec.dtype).view(spec.shape)

    return {
        name: {suffix: make(name, suffix, spec) for suffix, spec in reader.outputs.items()}
        for name, reader in readers.items()
    }


def fill(outputs: Mapping[str, Tensor], reader: TensorReader) -> None:
    """Read one tensor into its allocated outputs."""
    source = reader.source
    device = next(iter(outputs.values())).device
    if isinstance(reader, Cast) and device.type == "cpu":
        _cast_on_cpu(outputs[""], source)
        return
    views = outputs if source.shape else {suffix: output[None] for suffix, output in outputs.items()}
    for rows in row_chunks(source):
        for suffix, chunk in reader.read_chunk(rows, device).items():
            views[suffix][rows] = chunk


@torch.inference_mode(False)
def load_tensors(
    readers: Mapping[str, TensorReader], device: torch.device, regions: Regions = ONE_REGION
) -> dict[str, Tensor]:
    """The outputs of all readers by name plus suffix, read by several threads in the order of the files.

    Destination tensors are allocated before temporaries; interleaving them fragmented the heap by about half of their
    size (measured).
    """

    def file_position(name: str) -> tuple[str, int]:
        source = readers[name].source
        source = source.stored if isinstance(source, EncodedTensor) else source
        return (str(source.path), source.offset) if isinstance(source, TensorSlice) else ("", 0)

    names = sorted(readers, key=file_position)
    outputs = allocate({name: readers[name] for name in names}, device, regions)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        deque(pool.map(lambda name: fill(outputs[name], readers[name]), names), maxlen=0)
    return {name + suffix: tensor for name in names for suffix, tensor in outputs[name].items()}


def _cast_on_cpu(output: Tensor, source: TensorSource) -> None:
    """Cast without an intermediate copy."""
    if isinstance(source, TensorSlice) and source.dtype == output.dtype:
        read_into(output, source)
        return
    view = output if source.shape else output[None]
    for rows in row_chunks(source):
        view[rows].copy_(read_rows(source, rows))
