"""The order in which streamed blocks are copied and used, with streams that only write down what they are told."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from wan.offload.streaming import StreamedBlocks

CPU = torch.device("cpu")
COUNT = 5


class Stream:
    """Work is a number that grows; what waits for another stream or event is written down with that number."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.done = name, log, 0

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name} {other.done}")

    def wait_event(self, number: int) -> None:
        self.log.append(f"{self.name} waits for copy {number}")

    def record_event(self) -> int:
        self.done += 1
        self.log.append(f"copy {self.done}")
        return self.done


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[StreamedBlocks, Stream, list[str]]:
    log: list[str] = []
    work, copies = Stream("work", log), Stream("copies", log)
    blocks = StreamedBlocks(nn.ModuleList(nn.Linear(2, 2) for _ in range(COUNT)), 0, CPU)
    blocks._copies = copies  # type: ignore[assignment]
    within: Callable[[Stream], AbstractContextManager[None]] = lambda _: nullcontext()  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: work)
    monkeypatch.setattr(torch.cuda, "stream", within)
    return blocks, work, log


def use(blocks: Iterator[nn.Module], work: Stream) -> None:
    next(blocks)
    work.done += 1
    work.log.append(f"block {work.done}")


def test_a_block_s_copy_is_beside_the_work_of_the_one_before(
    streams: tuple[StreamedBlocks, Stream, list[str]],
) -> None:
    """A slot is written after the block that was there, and a block works after its own copy."""
    blocks, work, log = streams
    coming = iter(blocks)
    for _ in range(COUNT):
        use(coming, work)
    assert next(coming, None) is None
    for number in range(1, COUNT + 1):
        assert log.index(f"work waits for copy {number}") < log.index(f"block {number}")
        before = log[: log.index(f"copy {number}")]
        assert before[-1] == f"copies waits for work {max(number - 2, 0)}"
    assert log[-1] == f"work waits for copies {COUNT}"


def test_a_request_that_is_stopped_waits_for_the_copy_under_way(
    streams: tuple[StreamedBlocks, Stream, list[str]],
) -> None:
    """Its slots are given back at once, and what is made there next must not be written over."""
    blocks, work, log = streams
    coming = blocks.__iter__()
    use(coming, work)
    coming.close()  # type: ignore[attr-defined]
    assert log[-1] == "work waits for copies 2"
