"""What a `Request` is made of, where a tensor or a PIL image is not enough: long speech and source videos."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor


class SpeechEmbeddings(Protocol):
    """wav2vec2 states of one person, 25 frames a second: a tensor frames x layers x width, or computed on access."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, frame_indices: Any, /) -> Tensor:
        """The states of frames, given a tensor of their indices: (*frame_indices.shape, layers, width)."""
        ...


@runtime_checkable
class VideoSource(Protocol):
    """Frames of a source video by time: index i is the frame shown at i / 25 s.

    Frames are read in ascending order; one may be read again. `cuts` are the indices, ascending and above 0, of the
    first frame of each further scene.
    """

    @property
    def cuts(self) -> tuple[int, ...]: ...

    def frame_at(self, index: int) -> Image.Image:
        """8-bit RGB, upright, all of one size; past the end the last frame."""
        ...
