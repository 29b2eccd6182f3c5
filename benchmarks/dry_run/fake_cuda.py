"""A GPU that a PyTorch without CUDA believes in: tensors have shape, dtype and device, but no data.

Inside `fake_cuda`, `torch.cuda` describes the given card, FakeTensorMode computes shapes, and a `DeviceWatch` counts
what the operators do. What only concerns the host runs with real numbers: see `watch.py`.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._device import _device_constructors

from benchmarks.dry_run.watch import DeviceWatch
from wan import host_memory
from wan.offload import streaming

CUDA = torch.device("cuda", 0)
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_NUM_DEVICE_TYPES = 21
_CPU_TYPE, _CUDA_TYPE = 0, 1
_Generator = torch.Generator
_FACTORIES = ("randn", "rand", "randint", "randperm", "normal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU: bytes of its memory that are free in a new process, and its compute capability."""

    name: str
    free: int
    capability: tuple[int, int] = (9, 0)


class FakeStream:
    """A stream; operators run at once, so that waiting does nothing."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = device

    def wait_stream(self, stream: "FakeStream") -> None: ...

    def wait_event(self, event: "FakeEvent") -> None: ...

    def record_event(self, event: "FakeEvent | None" = None) -> "FakeEvent":
        return event or FakeEvent()

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class FakeEvent:
    """An event that has always happened."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None: ...

    def record(self, stream: FakeStream | None = None) -> None: ...

    def wait(self, stream: FakeStream | None = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1.0


class FakeRuntime:
    """The part of the CUDA runtime that page-locks memory."""

    def __init__(self, watch: DeviceWatch) -> None:
        self._watch = watch
        self._sizes: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802 - CUDA's name
        """Lock; 0 is success."""
        self._sizes[address] = size
        self._watch.lock(address, size)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - CUDA's name
        """Unlock; 0 is success."""
        self._watch.unlock(address, self._sizes.pop(address))
        return 0


class FakeGenerator:
    """A generator on the fake device, whose state is the seed; on the host a real one."""

    def __new__(cls, device: torch.device | str = "cpu") -> Any:
        return object.__new__(cls) if torch.device(device).type == "cuda" else _Generator(device)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._seed = 0

    def manual_seed(self, seed: int) -> "FakeGenerator":
        self._seed = seed
        return self

    def get_state(self) -> int:
        return self._seed

    def set_state(self, state: int) -> None:
        self._seed = state


@contextmanager
def fake_cuda(card: Card) -> Iterator[DeviceWatch]:
    """Pretend that the card is CUDA device 0. Leaves nothing patched, and no result cached that depends on it."""
    _device_constructors()  # listed once per process, by their unpatched names
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    watch = DeviceWatch(mode, card.free)
    with ExitStack() as stack:
        stack.enter_context(_device_guard())
        for target, name, value in _patches(card, watch):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mode)
        stack.enter_context(watch)
        yield watch


def _patches(card: Card, watch: DeviceWatch) -> Iterator[tuple[Any, str, Any]]:
    runtime = FakeRuntime(watch)
    yield from ((torch.cuda, name, value) for name, value in _cuda_functions(card, watch, runtime).items())
    yield torch, "Generator", FakeGenerator
    for name in _FACTORIES:
        yield torch, name, _without_generator(getattr(torch, name))
    yield torch, "empty", watch.count_pinned(torch.empty)
    yield host_memory, "unlock", runtime.cudaHostUnregister  # may be called after the fake GPU is gone
    for module in (host_memory, streaming):
        yield module, "allocate_region", watch.allocate_region
    yield FakeTensorMode, "avoid_device_init", True
    set_data = lambda target, value: _set_data(target, watch.fake(value))  # noqa: E731
    yield FakeTensor, "data", property(Tensor.detach, set_data)
    yield FakeTensor, "data_ptr", lambda tensor: tensor.untyped_storage()._cdata
    yield torch.utils, "swap_tensors", set_data
    try:
        from triton.runtime import JITFunction
    except ImportError:
        return
    yield JITFunction, "run", lambda kernel, *args, **kwargs: watch.launch(kernel, *args, **kwargs)


def _cuda_functions(card: Card, watch: DeviceWatch, runtime: FakeRuntime) -> dict[str, Any]:
    default_stream = FakeStream()
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "device_of": lambda tensor: nullcontext(),
        "get_device_name": lambda device=None: card.name,
        "get_device_capability": lambda device=None: card.capability,
        "mem_get_info": lambda device=None: (card.free - watch.live, card.free),
        "memory_reserved": lambda device=None: watch.live,
        "memory_allocated": lambda device=None: watch.live,
        "max_memory_allocated": lambda device=None: watch.peak,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: watch.record("synchronization"),
        "cudart": lambda: runtime,
        "Stream": FakeStream,
        "Event": FakeEvent,
        "current_stream": lambda device=None: default_stream,
        "stream": watch.on_stream,
    }


def _without_generator(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A random factory that accepts a `FakeGenerator`; a generator must be on the result's device, as in PyTorch."""

    def draw(*args: Any, generator: Any = None, **kwargs: Any) -> Tensor:
        device = torch.device(kwargs.get("device") or "cpu")
        if generator is not None and device != generator.device:
            raise RuntimeError(f"a generator on {generator.device} draws on {device}")
        seeded = {} if generator is None or isinstance(generator, FakeGenerator) else {"generator": generator}
        return factory(*args, **seeded, **kwargs)

    return draw


def _set_data(target: FakeTensor, value: FakeTensor) -> None:
    """`target.data = value`, of which FakeTensor forgets the new device."""
    Tensor.data.__set__(target, value)  # type: ignore[attr-defined]
    target.fake_device = value.fake_device
    target.constant = None


@contextmanager
def _device_guard() -> Iterator[None]:
    """Register a device guard for CUDA, that of the CPU, which does nothing, where PyTorch is built without CUDA."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * _NUM_DEVICE_TYPES).in_dll(library, _GUARDS)
    previous = guards[_CUDA_TYPE]
    guards[_CUDA_TYPE] = previous or guards[_CPU_TYPE]
    try:
        yield
    finally:
        guards[_CUDA_TYPE] = previous
