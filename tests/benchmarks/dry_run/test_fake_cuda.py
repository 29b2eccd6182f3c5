"""What a fake card notices: mixed devices, dtypes, host traffic, memory."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.dry_run.fake_cuda import CUDA, Card, fake_cuda
from benchmarks.dry_run.watch import DeviceWatch

MB = 2**20


@pytest.fixture
def watch() -> Iterator[DeviceWatch]:
    with fake_cuda(Card(name="card", free=64 * MB)) as watch, torch.inference_mode():
        watch.stage = "step"
        yield watch


def on_card(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, device=CUDA, dtype=dtype)


ERRORS: dict[str, Callable[[], object]] = {
    "mixed devices": lambda: on_card(4) + torch.ones(4),
    "mixed dtypes": lambda: F.linear(on_card(4, 4), on_card(4, 4, dtype=torch.bfloat16)),
    "generator of the host": lambda: torch.randn(4, device=CUDA, generator=torch.Generator("cpu")),
    "a size that depends on data": lambda: on_card(4)[on_card(4, dtype=torch.bool)],
    "out of memory": lambda: [on_card(5 * MB) for _ in range(4)],
}
EVENTS: dict[str, Callable[[], object]] = {
    "host read (item)": lambda: on_card(1).item(),
    "host read (is_nonzero)": lambda: bool(on_card(1)),
    "pageable copy to host": lambda: on_card(4).cpu(),
    "pageable copy to device": lambda: torch.tensor([1.0, 2.0], device=CUDA),
    "pinned copy to device": lambda: on_card(4).copy_(torch.empty(4, pin_memory=True), non_blocking=True),
    "host tensor": lambda: torch.linspace(0, 1, 3),
    "float64 tensor": lambda: on_card(4).double(),
    "synchronization": lambda: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("name", ERRORS)
def test_faults_of_a_gpu_are_raised(name: str, watch: DeviceWatch) -> None:
    with pytest.raises(RuntimeError):
        ERRORS[name]()


@pytest.mark.parametrize("what", EVENTS)
def test_what_stops_the_device_is_recorded(what: str, watch: DeviceWatch) -> None:
    EVENTS[what]()
    assert [event for event in watch.events if event[1].startswith(f"{what}: tests/benchmarks/dry_run/")] != []


def test_nothing_is_recorded_of_work_on_the_device(watch: DeviceWatch) -> None:
    x = on_card(MB, dtype=torch.bfloat16)
    y = x * 2.0 + 1
    z = torch.cat((x, y))
    assert (watch.events, watch.live, watch.peak) == ({}, 8 * MB, 8 * MB)
    del x, y, z
    assert watch.live == 0


def test_modules_move(watch: DeviceWatch) -> None:
    """By `to`, and by assigning `data`, which FakeTensor does not support."""
    layer = nn.Linear(1024, 1024)
    layer.to(CUDA)
    assert layer.weight.device == CUDA
    assert layer(on_card(2, 1024)).device == CUDA
    assert watch.live == 4 * MB + 4096
    layer.weight.data = torch.empty(1024, 1024)
    assert layer.weight.device.type == "cpu"
    assert watch.live == 4096


def test_what_concerns_the_host_is_computed(watch: DeviceWatch) -> None:
    assert (torch.arange(3) * 2).tolist() == [0, 2, 4]


def test_page_locked_memory_is_rounded_and_kept(watch: DeviceWatch) -> None:
    """As PyTorch's allocator does; memory that is registered is not."""
    del_me = torch.empty(3 * MB, dtype=torch.uint8, pin_memory=True)
    del del_me
    assert watch.page_locked == 4 * MB
    region = torch.empty(65 * MB, dtype=torch.uint8)
    runtime = torch.cuda.cudart()
    assert runtime.cudaHostRegister(region.data_ptr(), region.nbytes, 0) == 0
    assert watch.page_locked == 69 * MB
    runtime.cudaHostUnregister(region.data_ptr())
    assert watch.page_locked == 4 * MB


def test_nothing_stays_patched() -> None:
    before = torch.Generator, torch.empty, torch.cuda.Stream, torch.cuda.is_available()
    with fake_cuda(Card(name="card", free=MB)):
        assert torch.cuda.is_available()
    assert (torch.Generator, torch.empty, torch.cuda.Stream, torch.cuda.is_available()) == before
    assert torch.ones(2).sum().item() == 2
