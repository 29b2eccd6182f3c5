"""Blocks that wait in host memory and visit the device one at a time, the next one's copy beside this one's work."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

_ALIGNMENT = 256
"""Bytes; every tensor begins where any dtype may."""


@dataclass(frozen=True, slots=True)
class TensorView:
    """One tensor of a block: who holds it, and its bytes within the block's buffer."""

    holder: Tensor
    start: int
    stop: int

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor's shape and dtype on its part of a buffer of bytes."""
        return buffer[self.start : self.stop].view(self.holder.dtype).view(self.holder.shape)


class PinnedBlock:
    """A block's tensors in one buffer of page-locked host memory, so that one copy brings them all."""

    def __init__(self, block: nn.Module, pin: bool) -> None:
        self.tenants: list[TensorView] = []
        size = 0
        for tensor in chain(block.parameters(), block.buffers()):
            stop = size + tensor.numel() * tensor.element_size()
            self.tenants.append(TensorView(tensor, size, stop))
            size = -(-stop // _ALIGNMENT) * _ALIGNMENT
        self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        for tenant in self.tenants:
            tenant.view(self.buffer).copy_(tenant.holder)
        self.move_to(self.buffer)

    def move_to(self, buffer: Tensor) -> None:
        """Let the block's tensors be the contents of a buffer, here or on the device."""
        for tenant in self.tenants:
            tenant.holder.data = tenant.view(buffer)


class StreamedBlocks(nn.ModuleList):
    """A list of blocks of which the first `resident` stay on the device and the others come when iteration reaches
    them. Names in the state dict are those of the plain list.

    Two device buffers take turns: while one block works, the next one is copied. Each block is usable only between
    being yielded and the next one being asked for.
    """

    def __init__(self, blocks: nn.ModuleList, resident: int, device: torch.device) -> None:
        """Moves the first `resident` blocks to `device`, the others to page-locked host memory."""
        super().__init__(blocks)
        self.resident = resident
        self.device = device
        cuda = device.type == "cuda"
        self._visitors = [PinnedBlock(block, pin=cuda) for block in list(blocks)[resident:]]
        for block in list(blocks)[:resident]:
            block.to(device)
        self._copies = torch.cuda.Stream(device) if cuda else None

    def __iter__(self) -> Iterator[nn.Module]:
        blocks = list(super().__iter__())
        yield from blocks[: self.resident]
        largest = max((len(visitor.buffer) for visitor in self._visitors), default=0)
        slots = [torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2)]
        try:
            arrived = self._fetch(0, slots)
            for number, block in enumerate(blocks[self.resident :]):
                following = self._fetch(number + 1, slots)
                self._enter(number, slots, arrived)
                try:
                    yield block
                finally:
                    self._visitors[number].move_to(self._visitors[number].buffer)
                arrived = following
        finally:
            self._settle_copies()

    def settled(self) -> nn.ModuleList:
        """The same blocks as a plain list, wherever they are."""
        return nn.ModuleList(list(super().__iter__()))

    def _fetch(self, number: int, slots: list[Tensor]) -> "torch.cuda.Event | None":
        """Begin to copy a block into its slot, after the work that the slot's last tenant did there."""
        if number >= len(self._visitors):
            return None
        buffer = self._visitors[number].buffer
        slot = slots[number % 2][: len(buffer)]
        if self._copies is None:
            slot.copy_(buffer)
            return None
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            slot.copy_(buffer, non_blocking=True)
            return self._copies.record_event()

    def _enter(self, number: int, slots: list[Tensor], arrived: "torch.cuda.Event | None") -> None:
        """Point the block at its slot once the copy is there."""
        if arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(arrived)
        self._visitors[number].move_to(slots[number % 2])

    def _settle_copies(self) -> None:
        """Let later work wait for copies under way, as a request that is stopped leaves them: the slots' room can be
        used again at once. Told of the other stream, the allocator would hold it back and make two more slots."""
        if self._copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copies)
