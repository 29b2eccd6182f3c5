"""Measure mouth opening, eye opening and brow position of a drawn face from its pixels and bounding box.

Colors are compared with the skin of the same face and frame, and pixels are weighted by their coverage and averaged
over a region, which makes the measures robust to slight blur and color drift. Lengths are in units of half the face
height, relative to the center of the face, y down. Shapes: F frames, H x W pixels, 3 colors in 0..255.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.media.persons.boxes import Box
from training.characters import MOUTH_HEIGHT, MOUTH_INSIDE
from training.mouths import MouthCurve

Video = NDArray[np.uint8]
Pixels = NDArray[np.float64]

# Extent of a face box around the center of the face, in face units.
_ABOVE, _BELOW, _BESIDE = 1.15, 1.1, 1.0
_RED, _BLUE = 0, 2
LIPS = 0.84
"""Red threshold of an open mouth relative to skin: lips have 0.86, the nose shadow 0.9, an open mouth at most 0.25."""
_EYE_WHITE = 249.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle in face units; `mirrored` adds its reflection about the vertical axis."""

    left: float
    right: float
    top: float
    bottom: float
    mirrored: bool = False


CHEEKS = Region(left=0.3, right=0.6, top=0.12, bottom=0.36, mirrored=True)
MOUTH = Region(left=-0.16, right=0.16, top=0.16, bottom=0.88)
"""Center of the mouth, where its height does not depend on its width."""
AROUND_MOUTH = Region(left=-0.6, right=0.6, top=0.12, bottom=0.95)
EYES = Region(left=0.12, right=0.62, top=-0.37, bottom=0.02, mirrored=True)
_CENTER = Region(left=-0.1, right=0.1, top=0.3, bottom=0.9)
_CORNERS = Region(left=0.24, right=0.36, top=0.3, bottom=0.9, mirrored=True)
BROWS = Region(left=0.22, right=0.52, top=-0.49, bottom=-0.38, mirrored=True)
"""Position of brows that are not raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """Center and unit of a face in pixels."""

    x: float
    y: float
    unit: float

    @classmethod
    def from_box(cls, box: Box) -> "Face":
        """Estimate from an integer box, which was rounded outwards by half a pixel per side on average."""
        unit = ((box.right - box.left - 1) / (2 * _BESIDE) + (box.bottom - box.top - 1) / (_ABOVE + _BELOW)) / 2
        center_y = (box.top + box.bottom) / 2
        return cls(x=(box.left + box.right) / 2, y=center_y + (_ABOVE - _BELOW) / 2 * unit, unit=unit)

    def weights(self, region: Region, height: int, width: int) -> Pixels:
        """Coverage of each pixel by a region, H x W, 0..1."""
        rows = _pixel_coverage(height, self.y + region.top * self.unit, self.y + region.bottom * self.unit)
        columns = _pixel_coverage(width, self.x + region.left * self.unit, self.x + region.right * self.unit)
        if region.mirrored:
            columns = columns + _pixel_coverage(
                width, self.x - region.right * self.unit, self.x - region.left * self.unit
            )
        return rows[:, None] * np.minimum(columns, 1)


def mouth_opening(video: Video, box: Box) -> MouthCurve:
    """Mouth opening per frame, about 0..1: height of the pixels darker than lips in the center of the mouth."""
    face = Face.from_box(box)
    red = video[..., _RED].astype(np.float64)
    lips = LIPS * _skin(red, face)
    dark = np.clip((lips - red) / np.maximum(lips - MOUTH_INSIDE[_RED], 1), 0, 1)
    area = _mean(dark, face, MOUTH) * (MOUTH.bottom - MOUTH.top)
    return area / (2 * MOUTH_HEIGHT)


def eye_whiteness(video: Video, box: Box) -> MouthCurve:
    """White fraction of the eye region per frame; about 0 for closed eyes."""
    face = Face.from_box(box)
    blue = video[..., _BLUE].astype(np.float64)
    skin = _skin(blue, face)
    return _mean(np.clip((blue - skin) / np.maximum(_EYE_WHITE - skin, 1), 0, 1), face, EYES)


def brow_darkness(video: Video, box: Box) -> MouthCurve:
    """Difference of the region of unraised brows from the skin per frame, 0..1; small for raised brows."""
    face = Face.from_box(box)
    pixels = video.astype(np.float64)
    skin = np.stack([_skin(pixels[..., color], face)[:, 0, 0] for color in range(3)], axis=-1)
    difference = np.abs(pixels - skin[:, None, None]).mean(-1) / 255
    return _mean(difference, face, BROWS)


def mouth_corners(video: Video, box: Box) -> MouthCurve:
    """How far the corners of the mouth are above its center per frame, in face units; larger for a smile."""
    face = Face.from_box(box)
    green = video[..., 1].astype(np.float64)
    lips = np.clip(0.75 - green / np.maximum(_skin(green, face), 1), 0, 0.1)
    rows = np.arange(video.shape[1])[None, :, None] / face.unit
    heights = [
        _mean(lips * rows, face, area) / np.maximum(_mean(lips, face, area), 1e-3) for area in (_CENTER, _CORNERS)
    ]
    return heights[0] - heights[1]


def wall_color(video: Video, box: Box) -> NDArray[np.float64]:
    """Mean color beside the face per frame, F x 3."""
    beside = np.ones(video.shape[1:3], bool)
    beside[:, max(0, box.left - 2) : box.right + 2] = False
    beside[box.bottom :] = False
    return video[:, beside].mean(1)


def outside_mouths(boxes: list[Box], height: int, width: int) -> NDArray[np.bool_]:
    """Mask of the pixels outside all mouths, H x W."""
    covered = [Face.from_box(box).weights(AROUND_MOUTH, height, width) for box in boxes]
    return np.max(covered, axis=0) == 0


def _skin(channel: Pixels, face: Face) -> Pixels:
    """Skin value of one color channel F x H x W, as F x 1 x 1: the median of the cheeks."""
    inside = face.weights(CHEEKS, *channel.shape[1:]) > 0.5
    return np.median(channel[:, inside], axis=1)[:, None, None]


def _mean(values: Pixels, face: Face, region: Region) -> MouthCurve:
    """Mean of F x H x W over a region, per frame."""
    weights = face.weights(region, *values.shape[1:])
    return np.tensordot(values, weights, axes=2) / weights.sum()


def _pixel_coverage(count: int, start: float, end: float) -> Pixels:
    """Coverage of each of `count` pixels by the interval [start, end]."""
    edges = np.clip(np.arange(count + 1), start, end)
    return np.diff(edges)
