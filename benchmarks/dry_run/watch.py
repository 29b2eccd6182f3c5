"""Counts what operators do on a fake device: live bytes, copies from and to the host, host reads, kernel launches."""

import mmap
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map

from wan.offload.estimate import HOST, PeakCounter

ROOT = Path(__file__).parents[2]
MAX_HOST_BYTES = 64 * 10**6
"""Host tensors up to this size have data, so that what only concerns the host is computed."""
MAX_READ_BYTES = 4096
"""Tensors copied from the device have data, zeros, up to this size."""
_SCALAR_READS = ("_local_scalar_dense", "item", "is_nonzero", "equal")
_HOST_READS = (*_SCALAR_READS, "nonzero", "masked_select", "_unique2", "unique_dim")
"""Operators that wait for the device, since their result is on the host or has a size that depends on data."""
_COPIES = ("to", "_to_copy", "copy_")
_SAME_DTYPE = ("linear", "matmul", "mm", "bmm", "addmm", "addmm_", "baddbmm", "conv2d", "conv3d", "convolution")
"""Products whose floating-point inputs must have one dtype on a GPU, which fake tensors do not check."""
_MAX_GRID = (2**31, 2**16, 2**16)
LOADING = "load"
"""Name of the stage in which host tensors have no data, whatever their size."""


class DeviceWatch(PeakCounter):
    """Runs what concerns the device on fake tensors, and counts it by stage.

    A tensor copied to the host is zeros, a scalar read from a tensor without data 0, or True for a bool. Raises
    `torch.OutOfMemoryError` where live bytes exceed `capacity`.
    """

    def __init__(self, mode: FakeTensorMode, capacity: int) -> None:
        super().__init__(torch.device("cuda", 0))
        self.mode = mode
        self.capacity = capacity
        self.stage = LOADING
        self.peaks: Counter[str] = Counter()
        self.events: Counter[tuple[str, str]] = Counter()
        """(stage, what happened at which line) of copies, host reads and new host tensors."""
        self.copied_bytes: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.host = PeakCounter(HOST)
        self.page_locked = 0
        self._locked: set[int] = set()
        self._on_side_stream = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = find_tensors((args, kwargs))
        if name in _HOST_READS and any(map(is_on_device, tensors)):
            self.record(f"host read ({name})")
        if name in _SCALAR_READS and any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return True if tensors[0].dtype == torch.bool or name == "equal" else 0.0
        if name in _SAME_DTYPE and len({tensor.dtype for tensor in tensors if is_on_device(tensor)}) > 1:
            raise RuntimeError(f"{name} of {[tensor.dtype for tensor in tensors]}")
        if not tensors:
            result = self._create(func, args, kwargs)
        elif any(isinstance(tensor, FakeTensor) for tensor in tensors) or _names_device(args, kwargs):
            result = self._run_fake(func, args, kwargs)
        else:
            with unset_fake_temporarily():
                result = func(*args, **kwargs)
        if name in _COPIES:
            result = self._record_copy(tensors[-1], result)
        for tensor in find_tensors(result):
            self._count_result(tensor, {each.untyped_storage()._cdata for each in tensors})
        return result

    def _create(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A new tensor; one on the host has data if it is small, except while loading."""
        result = func(*args, **kwargs)
        if self.stage == LOADING or not isinstance(result, Tensor):
            return result
        if is_on_device(result) or result.nbytes > MAX_HOST_BYTES:
            return result
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _run_fake(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator with fake tensors in place of host tensors; those that it writes to are returned themselves."""
        fakes: dict[int, Tensor] = {}

        def replace(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            fake = self.fake(value)
            fakes[id(fake)] = value
            return fake

        result = func(*tree_map(replace, args), **tree_map(replace, kwargs))
        return tree_map(lambda value: fakes.get(id(value), value), result)

    def fake(self, tensor: Tensor) -> FakeTensor:
        """The tensor, or a fake one in place of a host tensor that has data."""
        fake = tensor if isinstance(tensor, FakeTensor) else self.mode.from_tensor(tensor)
        fake.constant = None
        return fake

    def _record_copy(self, source: Tensor, result: Tensor) -> Tensor:
        """Record a copy between the devices. The result, of zeros if it came to the host and is small."""
        if source.device.type == result.device.type:
            return result
        arrives = is_on_device(result)
        host = source if arrives else result
        kind = "pinned" if host.untyped_storage()._cdata in self._locked else "pageable"
        stream = ", side stream" if self._on_side_stream else ""
        self.record(f"{kind} copy to {'device' if arrives else 'host'}{stream}")
        self.copied_bytes[self.stage, "to device" if arrives else "to host"] += source.nbytes
        if arrives or not isinstance(result, FakeTensor) or result.nbytes > MAX_READ_BYTES:
            return result
        with unset_fake_temporarily():
            return torch.zeros(result.shape, dtype=result.dtype)

    def _count_result(self, tensor: Tensor, inputs: set[int]) -> None:
        storage = tensor.untyped_storage()
        if isinstance(tensor, FakeTensor):
            tensor.constant = None
        if tensor.device.type == "cpu":
            if storage._cdata not in inputs:
                self.record("host tensor")
            self.host.count(storage, inputs)
        if not is_on_device(tensor):
            return
        if tensor.dtype == torch.float64:
            self.record("float64 tensor")
        self.count(storage, inputs)
        self.peaks[self.stage] = max(self.peaks[self.stage], self.live)
        if self.live > self.capacity:
            raise torch.OutOfMemoryError(
                f"{self.live / 1e9:.2f} GB are live in stage {self.stage}; the card has {self.capacity / 1e9:.2f} GB"
            )

    def record(self, what: str) -> None:
        """Count an event of the present stage."""
        self.events[self.stage, f"{what}: {_caller()}"] += 1

    def launch(self, kernel: Any, *arguments: Any, grid: Any, **constants: Any) -> None:
        """In place of `JITFunction.run`: check a Triton kernel's arguments and grid."""
        devices = [str(argument.device) for argument in arguments if isinstance(argument, Tensor)]
        assert set(devices) == {"cuda:0"}, f"{kernel.fn.__name__} is launched with tensors on {devices}"
        assert all(side < limit for side, limit in zip(grid, _MAX_GRID, strict=False)), grid
        self.launches[self.stage, kernel.fn.__name__] += 1

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        """In place of `torch.cuda.stream`."""
        previous, self._on_side_stream = self._on_side_stream, True
        try:
            yield
        finally:
            self._on_side_stream = previous

    def allocate_region(self, size: int) -> Tensor:
        """In place of `wan.host_memory.allocate_region`: whole pages without data."""
        self.record("host region")
        stage, self.stage = self.stage, LOADING
        try:
            return torch.empty(-(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE, dtype=torch.uint8)
        finally:
            self.stage = stage

    def lock(self, address: int, size: int) -> None:
        """Page-lock host memory; the address is that of the storage's implementation."""
        self._locked.add(address)
        self.page_locked += size

    def unlock(self, address: int, size: int) -> None:
        """Page-locked memory is given back to the system."""
        self._locked.discard(address)
        self.page_locked -= size

    def count_pinned(self, empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`torch.empty` that page-locks as PyTorch's allocator does: powers of two, which it keeps."""

        def allocate(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            tensor = empty(*args, **kwargs)
            if pin_memory:
                storage = tensor.untyped_storage()
                self.lock(storage._cdata, 1 << (storage.nbytes() - 1).bit_length())
                weakref.finalize(storage, self._locked.discard, storage._cdata)
            return tensor

        return allocate


def is_on_device(tensor: Tensor) -> bool:
    """Whether a tensor is on the fake GPU."""
    return tensor.device.type == "cuda"


def find_tensors(values: Any) -> list[Tensor]:
    """The tensors among nested arguments or results."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _names_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in tree_leaves((args, kwargs)))


def _caller() -> str:
    """File and line of the innermost frame in the project, outside this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.parent != Path(__file__).parent and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
