"""Sizes in pixels, latents and tokens."""

from dataclasses import dataclass
from typing import Literal

FPS = 25
"""Video frames per second of all models."""
TEMPORAL_STRIDE = 4
"""Video frames per latent frame, except the first latent frame, which is one video frame."""
SPATIAL_STRIDE = 8
"""Pixels per latent pixel in height and width."""
PATCH = 2
"""Latent pixels per token in height and width; in time a token is one latent frame."""
PIXELS_PER_TOKEN = SPATIAL_STRIDE * PATCH

Aspect = Literal["bucket", "source"]
"""Output aspect ratio: that of the nearest bucket, or that of the source image."""


def latent_frames(frames: int) -> int:
    """Latent frames T of `frames` video frames, which must be 4n + 1."""
    assert frames % TEMPORAL_STRIDE == 1, frames
    return (frames - 1) // TEMPORAL_STRIDE + 1


def round_up_frames(frames: int) -> int:
    """The smallest 4n + 1 >= `frames`."""
    return -(-(frames - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSize:
    """Number of frames, height and width in pixels, and the latent and token sizes that follow."""

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
