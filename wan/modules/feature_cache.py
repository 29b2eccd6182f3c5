"""Frames that the layers of the causal VAE keep from one slice to the next, on the device or in host memory."""

from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from wan.host_memory import CopyStream, HostTensor


class Transfer(NamedTuple):
    """A tensor on the device that is being copied, and the event after its copy."""

    frames: Tensor | None
    copied: "torch.cuda.Event | None"


_NOTHING = Transfer(None, None)


class FeatureCache:
    """Frames of earlier slices, by layer; None for a layer that has stored none. A context manager.

    Tensors are kept on `offload_device` and returned on `device`. If these differ, one layer's frames are on their way
    to the host and those of the next layer, which is the one that followed in the last slice, on their way back while a
    layer computes.
    """

    def __init__(self, device: torch.device, offload_device: torch.device) -> None:
        self.device = device
        self.offload_device = offload_device
        self.tensors: dict[Any, Tensor] = {}
        self._buffers: list[HostTensor] = []
        self._copies = CopyStream(device) if device.type == "cuda" and offload_device != device else None
        self._last: Any = None
        self._following: dict[Any, Any] = {}
        self._fetched: tuple[Any, Transfer] = None, _NOTHING
        self._stored = _NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._copies is not None:
            self._copies.synchronize()

    def __getitem__(self, layer: Any) -> Tensor | None:
        if self.offload_device == self.device:
            return self.tensors.get(layer)
        self._following[self._last] = layer
        self._last = layer
        fetched, transfer = self._fetched
        self._wait(transfer)
        if fetched is not layer:
            transfer = self._fetch(layer)
            self._wait(transfer)
        following = self._following.get(layer)
        following = None if following is layer else following  # its frames of this slice are not stored yet
        self._fetched = following, self._fetch(following)
        return transfer.frames

    def __setitem__(self, layer: Any, frames: Tensor) -> None:
        if self.offload_device == self.device:
            self.tensors[layer] = frames
            return
        self._wait(self._stored)
        self._stored = self._store(layer, frames)

    def _fetch(self, layer: Any) -> Transfer:
        kept = self.tensors.get(layer)
        if kept is None:
            return _NOTHING
        if self._copies is None:
            return Transfer(kept.to(self.device), None)
        frames = torch.empty_like(kept, device=self.device)
        return Transfer(frames, self._copies.copy(frames, kept))

    def _store(self, layer: Any, frames: Tensor) -> Transfer:
        if self._copies is None:
            self.tensors[layer] = frames.to(self.offload_device)
            return Transfer(frames, None)
        if layer not in self.tensors:
            self._buffers.append(HostTensor(frames, page_lock=True))
            self.tensors[layer] = self._buffers[-1].tensor
        return Transfer(frames, self._copies.copy(self.tensors[layer], frames))

    def _wait(self, transfer: Transfer) -> None:
        """Let later kernels wait for a copy: they may then use its frames, or their memory."""
        if self._copies is not None:
            self._copies.wait(transfer.copied)
