"""A drawn face read back from pixels, given only its box: how far the mouth and the eyes are open, the brows raised.

Everything is relative to the face's own skin in the same frame, soft (a pixel half covered counts half) and summed
over an area, so that a little blur or drift of the colours does not matter. Lengths are in units of half a face's
height, from the face's centre, y down. Shapes: F frames, H x W pixels, 3 colours of 0..255.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.characters import MOUTH_HEIGHT, MOUTH_INSIDE
from training.mouths import Track
from wan.conditioning.speakers import BoxRegion

Video = NDArray[np.uint8]
Pixels = NDArray[np.float64]

# What the renderer leaves around a face: a box spans these units.
_ABOVE, _BELOW, _BESIDE = 1.15, 1.1, 1.0
_RED, _BLUE = 0, 2
LIPS = 0.84
"""Lips have 0.86 of the skin's red, the nose's shadow 0.9, an open mouth at most a fourth: what is darker is open."""
_EYE_WHITE = 249.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle of a face; with `mirrored` its image on the other side too."""

    left: float
    right: float
    top: float
    bottom: float
    mirrored: bool = False


CHEEKS = Region(left=0.3, right=0.6, top=0.12, bottom=0.36, mirrored=True)
MOUTH = Region(left=-0.16, right=0.16, top=0.16, bottom=0.88)
"""The middle of the mouth, whose height there does not depend on its width."""
AROUND_MOUTH = Region(left=-0.6, right=0.6, top=0.12, bottom=0.95)
EYES = Region(left=0.12, right=0.62, top=-0.37, bottom=0.02, mirrored=True)
BROWS = Region(left=0.22, right=0.52, top=-0.49, bottom=-0.38, mirrored=True)
"""Where brows are unless they are raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """Centre and unit in pixels, as far as a box of whole pixels tells them."""

    x: float
    y: float
    unit: float

    @classmethod
    def within(cls, box: BoxRegion) -> "Face":
        """A box was rounded outwards, by half a pixel on each side on average."""
        unit = ((box.right - box.left - 1) / (2 * _BESIDE) + (box.bottom - box.top - 1) / (_ABOVE + _BELOW)) / 2
        middle = (box.top + box.bottom) / 2
        return cls(x=(box.left + box.right) / 2, y=middle + (_ABOVE - _BELOW) / 2 * unit, unit=unit)

    def weights(self, region: Region, height: int, width: int) -> Pixels:
        """How much of each pixel lies in a region, H x W, 0..1."""
        rows = _shares(height, self.y + region.top * self.unit, self.y + region.bottom * self.unit)
        columns = _shares(width, self.x + region.left * self.unit, self.x + region.right * self.unit)
        if region.mirrored:
            columns = columns + _shares(width, self.x - region.right * self.unit, self.x - region.left * self.unit)
        return rows[:, None] * np.minimum(columns, 1)


def mouth_opening(video: Video, box: BoxRegion) -> Track:
    """How far the mouth is open, about 0..1 per frame: the height of what is darker than lips in the middle of it."""
    face = Face.within(box)
    red = video[..., _RED].astype(np.float64)
    lips = LIPS * _skin(red, face)
    dark = np.clip((lips - red) / np.maximum(lips - MOUTH_INSIDE[_RED], 1), 0, 1)
    area = _mean(dark, face, MOUTH) * (MOUTH.bottom - MOUTH.top)
    return area / (2 * MOUTH_HEIGHT)


def eye_whiteness(video: Video, box: BoxRegion) -> Track:
    """Which part of the eyes' region is white, per frame; about 0 where they are closed."""
    face = Face.within(box)
    blue = video[..., _BLUE].astype(np.float64)
    skin = _skin(blue, face)
    return _mean(np.clip((blue - skin) / np.maximum(_EYE_WHITE - skin, 1), 0, 1), face, EYES)


def brow_darkness(video: Video, box: BoxRegion) -> Track:
    """How much the place where brows usually are differs from the skin, 0..1 per frame; less where they are raised."""
    face = Face.within(box)
    pixels = video.astype(np.float64)
    skin = np.stack([_skin(pixels[..., color], face)[:, 0, 0] for color in range(3)], axis=-1)
    difference = np.abs(pixels - skin[:, None, None]).mean(-1) / 255
    return _mean(difference, face, BROWS)


def mouth_free(boxes: list[BoxRegion], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels, H x W, that belong to no mouth."""
    covered = [Face.within(box).weights(AROUND_MOUTH, height, width) for box in boxes]
    return np.max(covered, axis=0) == 0


def _skin(channel: Pixels, face: Face) -> Pixels:
    """The skin's value in one colour F x H x W, as F x 1 x 1: the median of the cheeks."""
    inside = face.weights(CHEEKS, *channel.shape[1:]) > 0.5
    return np.median(channel[:, inside], axis=1)[:, None, None]


def _mean(values: Pixels, face: Face, region: Region) -> Track:
    """The mean of F x H x W over a region, per frame."""
    weights = face.weights(region, *values.shape[1:])
    return np.tensordot(values, weights, axes=2) / weights.sum()


def _shares(count: int, first: float, last: float) -> Pixels:
    """How much of each of `count` pixels lies between two places."""
    edges = np.clip(np.arange(count + 1), first, last)
    return np.diff(edges)
