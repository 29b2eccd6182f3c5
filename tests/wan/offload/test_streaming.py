"""Streamed blocks: order of copies and kernels, with fake CUDA streams that log their operations; bytes on the host."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from wan import host_memory
from wan.host_memory import HostTensor, allocate_region
from wan.offload.estimate import PeakCounter
from wan.offload.streaming import OffloadedModule, StreamedBlocks

CPU = torch.device("cpu")
COUNT = 5


class FakeStream:
    """Counts its operations; a wait logs how many operations of the other stream it waits for."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.done = name, log, 0

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name} {other.done}")

    def wait_event(self, number: int) -> None:
        self.log.append(f"{self.name} waits for copy {number}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")

    def record_event(self) -> int:
        self.done += 1
        self.log.append(f"copy {self.done}")
        return self.done


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[StreamedBlocks, FakeStream, list[str]]:
    """Streamed blocks, the compute stream, and the log of both streams."""
    log: list[str] = []
    compute, copies = FakeStream("compute", log), FakeStream("copies", log)
    blocks = StreamedBlocks(nn.ModuleList(nn.Linear(2, 2) for _ in range(COUNT)), 0, CPU)
    blocks._copies.stream = copies  # type: ignore[assignment]
    within: Callable[[FakeStream], AbstractContextManager[None]] = lambda _: nullcontext()  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: compute)
    monkeypatch.setattr(torch.cuda, "stream", within)
    return blocks, compute, log


def run_next(blocks: Iterator[nn.Module], compute: FakeStream) -> None:
    next(blocks)
    compute.done += 1
    compute.log.append(f"block {compute.done}")


def test_next_block_is_copied_while_the_current_one_computes(
    streams: tuple[StreamedBlocks, FakeStream, list[str]],
) -> None:
    """A slot is overwritten after its previous block has run, and a block runs after its own copy."""
    blocks, compute, log = streams
    iterator = iter(blocks)
    for _ in range(COUNT):
        run_next(iterator, compute)
    assert next(iterator, None) is None
    for number in range(1, COUNT + 1):
        assert log.index(f"compute waits for copy {number}") < log.index(f"block {number}")
        before = log[: log.index(f"copy {number}")]
        assert before[-1] == f"copies waits for compute {max(number - 2, 0)}"
    assert log[-1] == f"compute waits for copies {COUNT}"


def test_abandoned_iteration_waits_for_the_copy_in_flight(
    streams: tuple[StreamedBlocks, FakeStream, list[str]],
) -> None:
    """Its slots are freed at once; what is allocated there next must not be overwritten."""
    blocks, compute, log = streams
    iterator = blocks.__iter__()
    run_next(iterator, compute)
    iterator.close()  # type: ignore[attr-defined]
    assert log[-1] == "compute waits for copies 2"


WIDTH = 256
BLOCK_BYTES = (WIDTH * WIDTH + WIDTH) * 4


def plain_blocks() -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(COUNT))


def outputs(blocks: nn.ModuleList) -> list[torch.Tensor]:
    x = torch.linspace(-1, 1, WIDTH)[None]
    return [block(x) for block in blocks]


@torch.no_grad()
def test_a_change_of_plan_copies_only_the_blocks_that_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are more than all blocks and one more in host memory; before, a second copy of all was built."""
    allocated: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        allocated.append(size)
        return torch.empty(size, dtype=torch.uint8)

    monkeypatch.setattr("wan.offload.streaming.allocate_region", allocate)
    with PeakCounter(CPU) as counter:
        plain = plain_blocks()
        expected = outputs(plain)
        blocks = StreamedBlocks(plain, 2, CPU)
        kept = list(blocks._offloaded)
        counts = []
        for resident in (1, 3, 0, 0, COUNT, 2):
            blocks.set_num_resident(resident)
            counts.append(len(allocated))
            assert len(blocks._offloaded) == COUNT - resident
            assert all(torch.equal(a, b) for a, b in zip(outputs(blocks), expected, strict=True))
            if resident == 1:
                assert blocks._offloaded[1:] == kept
                kept.clear()
    assert counts == [3 + 1, 4, 4 + 3, 7, 7, 7 + 3]
    slots = 2 * BLOCK_BYTES
    assert counter.peak < COUNT * BLOCK_BYTES + slots + 1.1 * BLOCK_BYTES


@torch.no_grad()
def test_a_loaded_module_is_offloaded_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    region = allocate_region(BLOCK_BYTES)
    layer = nn.Linear(WIDTH, WIDTH)
    weight = region[: WIDTH * WIDTH * 4].view(torch.float32).view(WIDTH, WIDTH).normal_()
    bias = region[WIDTH * WIDTH * 4 : BLOCK_BYTES].view(torch.float32).normal_()
    layer.weight.data, layer.bias.data = weight, bias
    expected = layer(torch.ones(WIDTH))
    monkeypatch.setattr("wan.offload.streaming.allocate_region", None)
    offloaded = OffloadedModule(layer, page_lock=False)
    assert offloaded.buffer.data_ptr() == region.data_ptr()
    offloaded.point_at(offloaded.buffer.clone())
    assert torch.equal(layer(torch.ones(WIDTH)), expected)
    assert layer.weight.data_ptr() != region.data_ptr()


class FakeRuntime:
    """Counts page-locked bytes by address."""

    def __init__(self, status: int = 0) -> None:
        self.locked: dict[int, int] = {}
        self.status = status

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802 - CUDA's name
        assert address not in self.locked
        if self.status == 0:
            self.locked[address] = size
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.locked[address]
        return 0


def test_page_locked_memory_is_neither_rounded_up_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime()
    monkeypatch.setattr(host_memory, "cudart", lambda: runtime)
    modules = [OffloadedModule(block, page_lock=True) for block in plain_blocks()]
    assert len(runtime.locked) == COUNT
    assert all(BLOCK_BYTES <= size < BLOCK_BYTES + 4096 for size in runtime.locked.values())
    del modules[0]
    assert len(runtime.locked) == COUNT - 1
    modules.clear()
    assert runtime.locked == {}


def test_memory_is_unlocked_before_it_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Mapping(mmap.mmap):
        def __del__(self) -> None:
            log.append("freed")

    class Runtime(FakeRuntime):
        def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
            log.append("unlocked")
            return super().cudaHostUnregister(address)

    def allocate(size: int) -> torch.Tensor:
        return torch.frombuffer(Mapping(-1, size), dtype=torch.uint8)

    runtime = Runtime()
    monkeypatch.setattr(host_memory, "cudart", lambda: runtime)
    monkeypatch.setattr(host_memory, "allocate_region", allocate)
    monkeypatch.setattr("wan.offload.streaming.allocate_region", allocate)
    layer = nn.Linear(WIDTH, WIDTH)
    offloaded = OffloadedModule(layer, page_lock=True)
    offloaded.point_at(offloaded.buffer.clone())  # as on a device
    del offloaded
    assert log == ["unlocked", "freed"]
    original = HostTensor(layer.weight, page_lock=True)
    del original
    assert log == 2 * ["unlocked", "freed"]


def repeat_error(*_: int, device: str) -> None:
    raise RuntimeError("CUDA error: out of memory (of the earlier call)")


def test_refused_page_lock_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime(status=2)
    monkeypatch.setattr(host_memory, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "zeros", repeat_error)
    blocks = plain_blocks()
    expected = outputs(blocks)
    modules = [OffloadedModule(block, page_lock=True) for block in blocks]
    assert all(torch.equal(a, b) for a, b in zip(outputs(blocks), expected, strict=True))
    assert "cannot be page-locked (CUDA error 2)" in caplog.text
    modules.clear()


@torch.no_grad()
def test_an_offloaded_module_is_not_copied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(2, 3, 3)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    strides, expected = layer.weight.stride(), layer.weight.clone()
    offloaded = OffloadedModule(layer, page_lock=False)
    address = offloaded.buffer.data_ptr()
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor.clone())  # a device of its own
    with offloaded.on_device(CPU):
        assert layer.weight.stride() == strides
        assert torch.equal(layer.weight, expected)
        layer.weight.zero_()
    assert layer.weight.data_ptr() == address
    assert torch.equal(layer.weight, expected)
