"""Frames on their way to the encoder: one slice late, in two buffers, without holding the device's memory."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from app import frame_download
from app.frame_download import HostBuffer, Pixels, download
from app.speakers import quantize_pixels, to_pixels


def slices_of(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2.2 * torch.rand(3, size, 4, 6, generator=generator) - 1.1 for size in sizes]


def test_every_slice_arrives_in_order() -> None:
    slices = slices_of(1, 4, 4, 2, 4)
    received = list(download(iter(slices)))
    for frames_CFHW, pixels in zip(slices, received, strict=True):
        assert pixels.is_finite
        assert np.array_equal(pixels.frames_FHWC, to_pixels(frames_CFHW))
    assert list(download(iter([]))) == []


def test_a_slice_is_handed_over_when_the_next_one_has_been_decoded() -> None:
    decoded: list[int] = []

    def decode() -> Iterator[torch.Tensor]:
        for index, frames_CFHW in enumerate(slices_of(1, 4, 4)):
            decoded.append(index)
            yield frames_CFHW

    assert [len(decoded) for _ in download(decode())] == [2, 3, 3]


def test_no_slice_stays_on_the_device() -> None:
    """The last slice of a chunk would stay while the next chunk is denoised."""
    alive: list[bool] = []

    def decode() -> Iterator[torch.Tensor]:
        slices = slices_of(1, 4, 4)
        while slices:
            frames = slices.pop()
            reference = weakref.ref(frames)
            yield frames
            del frames
            alive.append(reference() is not None)

    list(download(decode()))
    assert alive == [False] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_slice_with_nan_or_inf_is_marked(value: float) -> None:
    slices = slices_of(4, 4, 4)
    slices[1][2, 3, 1, 1] = value
    assert [pixels.is_finite for pixels in download(iter(slices))] == [True, False, True]


def test_two_buffers_are_page_locked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies to the host do not wait for the device; the wait follows one slice later."""
    pinned, log = [], []
    empty = torch.empty

    class Event:
        def __init__(self, slice_index: int) -> None:
            self.slice_index = slice_index

        def synchronize(self) -> None:
            log.append(f"wait for {self.slice_index}")

    class Stream:
        copies = 0

        def record_event(self) -> Event:
            self.copies += 1
            log.append(f"copy {self.copies}")
            return Event(self.copies)

    class OnDevice(torch.Tensor):
        """Claims to be on a GPU."""

        is_cuda = True

    def allocate(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        pinned.append(pin_memory)
        return empty(*size, **options)

    stream = Stream()
    quantize = quantize_pixels
    monkeypatch.setattr(frame_download, "quantize_pixels", lambda frames: quantize(frames).as_subclass(OnDevice))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch, "empty", allocate)
    slices = slices_of(4, 4, 4, 4, 2)
    received: list[Pixels] = list(download(iter(slices)))
    assert pinned.count(True) == 2
    assert log == [
        *("copy 1", "copy 2", "wait for 1", "copy 3", "wait for 2"),
        *("copy 4", "wait for 3", "copy 5", "wait for 4", "wait for 5"),
    ]
    assert all(np.array_equal(p.frames_FHWC, to_pixels(s)) for p, s in zip(received, slices, strict=True))


def test_pixels_survive_the_next_copy() -> None:
    """The encoder reads them in a thread."""
    buffer, (first, second) = HostBuffer(), slices_of(4, 4)
    buffer.start(first)
    pixels = buffer.wait()
    buffer.start(second)
    assert np.array_equal(pixels.frames_FHWC, to_pixels(first))
