"""A video as what is shown, in place of a single picture."""

from typing import Protocol, runtime_checkable

from PIL import Image


@runtime_checkable
class VideoSource(Protocol):
    """Pictures by the time of the video that is made: index i is its frame i, 25 a second, from 0.

    They are asked for in ascending order; the last one may be asked for again.

    `cuts` are the indices, ascending and above 0, at which another scene begins.
    """

    @property
    def cuts(self) -> tuple[int, ...]: ...

    def frame(self, index: int) -> Image.Image:
        """What is seen then, 8-bit RGB, upright, all of one size; after the end the last frame holds."""
        ...
