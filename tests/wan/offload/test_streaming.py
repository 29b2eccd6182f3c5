"""Order of copies and kernels of streamed blocks, checked with fake CUDA streams that log their operations."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from wan.offload.streaming import StreamedBlocks

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
    blocks._copy_stream = copies  # type: ignore[assignment]
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
