"""Transformer blocks kept in pinned host memory and prefetched to the GPU one ahead of the block being computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

_ALIGNMENT = 256
"""Bytes; every tensor in a buffer starts at a multiple, which is valid for any dtype."""


@dataclass(frozen=True, slots=True)
class TensorView:
    """One parameter or buffer of a block, and its byte range in the block's flat buffer."""

    tensor: Tensor
    start: int
    stop: int

    def view(self, buffer: Tensor) -> Tensor:
        """The byte range of a uint8 buffer with the tensor's dtype and shape."""
        return buffer[self.start : self.stop].view(self.tensor.dtype).view(self.tensor.shape)


class PinnedBlock:
    """A block whose tensors are views of one flat host buffer, so that a single copy transfers it."""

    def __init__(self, block: nn.Module, pin: bool) -> None:
        self.views: list[TensorView] = []
        size = 0
        for tensor in chain(block.parameters(), block.buffers()):
            stop = size + tensor.numel() * tensor.element_size()
            self.views.append(TensorView(tensor, size, stop))
            size = -(-stop // _ALIGNMENT) * _ALIGNMENT
        self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        for view in self.views:
            view.view(self.buffer).copy_(view.tensor)
        self.point_at(self.buffer)

    def point_at(self, buffer: Tensor) -> None:
        """Make the block's tensors views of a buffer, on the host or on the device."""
        for view in self.views:
            view.tensor.data = view.view(buffer)


class StreamedBlocks(nn.ModuleList):
    """A list of blocks: the first `num_resident` stay on the device, iteration copies each of the others there.

    Two device buffers alternate: the next block is copied while the current one computes. A block may be used only
    until the next one is requested. State dict keys are those of the plain list.
    """

    def __init__(self, blocks: nn.ModuleList, num_resident: int, device: torch.device) -> None:
        """Move the first `num_resident` blocks to `device`, the others to pinned host memory."""
        super().__init__(blocks)
        self.num_resident = num_resident
        self.device = device
        cuda = device.type == "cuda"
        self._offloaded = [PinnedBlock(block, pin=cuda) for block in list(blocks)[num_resident:]]
        for block in list(blocks)[:num_resident]:
            block.to(device)
        self._copy_stream = torch.cuda.Stream(device) if cuda else None

    def __iter__(self) -> Iterator[nn.Module]:
        blocks = list(super().__iter__())
        yield from blocks[: self.num_resident]
        largest = max((len(block.buffer) for block in self._offloaded), default=0)
        slots = [torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2)]
        try:
            copied = self._prefetch(0, slots)
            for index, block in enumerate(blocks[self.num_resident :]):
                next_copied = self._prefetch(index + 1, slots)
                self._attach(index, slots, copied)
                try:
                    yield block
                finally:
                    self._offloaded[index].point_at(self._offloaded[index].buffer)
                copied = next_copied
        finally:
            self._wait_for_copies()

    def unwrap(self) -> nn.ModuleList:
        """The same blocks as a plain list, on their present devices."""
        return nn.ModuleList(list(super().__iter__()))

    def _prefetch(self, index: int, slots: list[Tensor]) -> "torch.cuda.Event | None":
        """Start the copy of an offloaded block to its slot, after the kernels that read the slot's previous block."""
        if index >= len(self._offloaded):
            return None
        buffer = self._offloaded[index].buffer
        slot = slots[index % 2][: len(buffer)]
        if self._copy_stream is None:
            slot.copy_(buffer)
            return None
        self._copy_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copy_stream):
            slot.copy_(buffer, non_blocking=True)
            return self._copy_stream.record_event()

    def _attach(self, index: int, slots: list[Tensor], copied: "torch.cuda.Event | None") -> None:
        """Point a block at its slot; kernels on the current stream wait for the copy."""
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)
        self._offloaded[index].point_at(slots[index % 2])

    def _wait_for_copies(self) -> None:
        """Order later kernels after a copy that an abandoned iteration left in flight, before its slot is reused.

        `record_stream` would delay reuse of the two buffers and make the allocator create two more.
        """
        if self._copy_stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copy_stream)
