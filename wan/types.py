"""Sizes: from pixels to latents to tokens, computed in one place."""

from dataclasses import dataclass
from typing import Literal

FPS = 25
"""Video frames per second of every model here."""
TEMPORAL_STRIDE = 4
"""Video frames per latent frame, the first latent frame (one video frame) excepted."""
SPATIAL_STRIDE = 8
"""Pixels per latent sample, in each direction."""
PATCH = 2
"""Latent samples per token, in each direction; in time a token is one latent frame."""
PIXELS_PER_TOKEN = SPATIAL_STRIDE * PATCH

Aspect = Literal["bucket", "source"]
"""Whether a video has the size of the nearest bucket or the shape of its picture."""


def latent_frames(frames: int) -> int:
    """Latent frames T of `frames` video frames, which must be 4n + 1."""
    assert frames % TEMPORAL_STRIDE == 1, frames
    return (frames - 1) // TEMPORAL_STRIDE + 1


def whole_latents(frames: int) -> int:
    """The smallest 4n + 1 that is at least `frames`."""
    return -(-(frames - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSize:
    """Frames, height and width of a clip in pixels, and everything that follows from them."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        assert self.height % PIXELS_PER_TOKEN == self.width % PIXELS_PER_TOKEN == 0, self
        latent_frames(self.frames)

    @property
    def latent(self) -> tuple[int, int, int]:
        """T, H, W of the latent."""
        return latent_frames(self.frames), self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @property
    def grid(self) -> tuple[int, int, int]:
        """T, rows, columns of the tokens."""
        return latent_frames(self.frames), self.height // PIXELS_PER_TOKEN, self.width // PIXELS_PER_TOKEN
