"""Modules kept in page-locked host memory; transformer blocks prefetched to the GPU one ahead of the one computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from wan.host_memory import CopyStream, PageLock, align, allocate_region, common_region


@dataclass(frozen=True, slots=True)
class TensorView:
    """One parameter or buffer of a module, and its byte range in the module's flat buffer."""

    tensor: Tensor
    start: int
    stop: int

    def view(self, buffer: Tensor) -> Tensor:
        """The byte range of a uint8 buffer with the tensor's dtype, shape and strides."""
        flat = buffer[self.start : self.stop].view(self.tensor.dtype)
        return flat.as_strided(self.tensor.shape, self.tensor.stride())


class OffloadedModule:
    """A module whose tensors are views of one flat host buffer, so that a single copy transfers it.

    The buffer is the region that the tensors were loaded into, or a copy of them. On a device the module is used in a
    copy of the buffer, which is dropped afterwards: nothing is copied back.
    """

    def __init__(self, module: nn.Module, page_lock: bool) -> None:
        """`page_lock`: for a GPU."""
        tensors = [*chain(module.parameters(), module.buffers())]
        region = common_region(tensors)
        self.views = _packed_views(tensors) if region is None else [_view_in_region(tensor) for tensor in tensors]
        self.buffer = allocate_region(max((view.stop for view in self.views), default=0)) if region is None else region
        self._page_lock = PageLock(self.buffer) if page_lock else None
        if region is None:
            for view in self.views:
                view.view(self.buffer).copy_(view.tensor)
            self.point_at(self.buffer)

    def point_at(self, buffer: Tensor) -> None:
        """Make the module's tensors views of a buffer, on the host or on the device."""
        for view in self.views:
            view.tensor.data = view.view(buffer)

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """The module on a device."""
        self.point_at(self.buffer.to(device, non_blocking=True))
        try:
            yield
        finally:
            self.point_at(self.buffer)


def _packed_views(tensors: list[Tensor]) -> list[TensorView]:
    views, start = [], 0
    for tensor in tensors:
        views.append(TensorView(tensor, start, start + tensor.nbytes))
        start = align(start + tensor.nbytes)
    return views


def _view_in_region(tensor: Tensor) -> TensorView:
    start = int(tensor.storage_offset()) * tensor.itemsize
    return TensorView(tensor, start, start + tensor.nbytes)


class StreamedBlocks(nn.ModuleList):
    """A list of blocks: the first `num_resident` stay on the device, iteration copies each of the others there.

    Two device buffers alternate: the next block is copied while the current one computes. A block may be used only
    until the next one is requested. State dict keys are those of the plain list.
    """

    def __init__(self, blocks: nn.ModuleList, num_resident: int, device: torch.device) -> None:
        """Move the first `num_resident` blocks to `device`, the others to page-locked host memory."""
        super().__init__(blocks)
        self.device = device
        self.num_resident = len(blocks)
        self._offloaded: list[OffloadedModule] = []
        self._copies = CopyStream(device)
        self.set_num_resident(num_resident)
        for block in list(blocks)[:num_resident]:
            block.to(device)

    def set_num_resident(self, num_resident: int) -> None:
        """Move blocks from the device or to it, one by one, until so many are resident; the others stay as they are."""
        blocks = list(super().__iter__())
        while self.num_resident > num_resident:
            block = OffloadedModule(blocks[self.num_resident - 1], page_lock=self.device.type == "cuda")
            self._offloaded.insert(0, block)
            self.num_resident -= 1
        while self.num_resident < num_resident:
            blocks[self.num_resident].to(self.device)
            del self._offloaded[0]
            self.num_resident += 1

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
            self._copies.wait_for_all()  # an abandoned iteration leaves one in flight, and its slot is reused

    def unwrap(self) -> nn.ModuleList:
        """The same blocks as a plain list, on their present devices."""
        return nn.ModuleList(list(super().__iter__()))

    def _prefetch(self, index: int, slots: list[Tensor]) -> "torch.cuda.Event | None":
        """Start the copy of an offloaded block to its slot, after the kernels that read the slot's previous block."""
        if index >= len(self._offloaded):
            return None
        buffer = self._offloaded[index].buffer
        return self._copies.copy(slots[index % 2][: len(buffer)], buffer)

    def _attach(self, index: int, slots: list[Tensor], copied: "torch.cuda.Event | None") -> None:
        """Point a block at its slot; kernels on the current stream wait for the copy."""
        self._copies.wait(copied)
        self._offloaded[index].point_at(slots[index % 2])
