"""What one person says, as the network hears it."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class SpeechEmbeddings(Protocol):
    """Speech states of one person, 25 a second: a tensor frames x layers x width, or what makes them when asked."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any, /) -> Tensor:
        """The states of frames, given a tensor of their indices: (*places.shape, layers, width)."""
        ...
