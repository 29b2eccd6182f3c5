"""Cartoon characters: sampling of their looks, and drawing of one frame.

Lengths are in units of half the height of a face; y points down.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

Color = tuple[int, int, int]
Points = NDArray[np.float64]

MOUTH_INSIDE: Color = (40, 6, 14)
"""Color of an open mouth, which no other part of a face has."""
MOUTH_HEIGHT = 0.27
"""Half the height of a fully open mouth."""

_SKIN_COLORS = {
    "train": [(255, 224, 196), (241, 194, 150), (224, 172, 125), (198, 142, 98), (176, 120, 82), (255, 205, 178)],
    "held-out": [(232, 184, 140), (210, 156, 112), (250, 214, 190)],
}
_HAIR_COLORS = {
    "train": [(44, 34, 30), (92, 58, 36), (140, 90, 50), (214, 170, 90), (170, 70, 36), (200, 200, 204), (60, 60, 90)],
    "held-out": [(70, 46, 34), (230, 200, 130), (120, 50, 60)],
}
_HUES = {"train": ((0.0, 0.13), (0.22, 0.48), (0.58, 0.85)), "held-out": ((0.15, 0.2), (0.5, 0.56), (0.88, 0.98))}
"""Hue ranges of clothes, hats and walls."""
_FACE_WIDTHS = {"train": ((0.72, 0.80), (0.86, 0.96)), "held-out": ((0.80, 0.86),)}
_FACE_EXPONENTS = {"train": ((1.9, 2.2), (2.5, 3.0)), "held-out": ((2.2, 2.5),)}
"""Face shapes: aspect ratios, and exponents of the superellipse."""

HAIR_STYLES = ("none", "short", "long", "bun", "curly", "spiky")
HATS = ("none", "none", "none", "cap", "beanie", "top")
GLASSES = ("none", "none", "round", "square")


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """The looks of a person, constant over a clip."""

    width: float
    exponent: float
    skin: Color
    hair: str
    hair_color: Color
    hat: str
    hat_color: Color
    glasses: str
    shirt: Color
    iris: Color
    lips: Color
    eye_offset: float
    eye_size: float
    nose: float
    mouth_width: float
    mouth_y: float
    ears: bool
    collar: str = "round"
    brow_height: float = 0.1


class Pose(NamedTuple):
    """A person in one frame: center of the face and unit in pixels, tilt in radians, others in 0..1.

    Shape and gaze, from left to right, are in -1..1.
    """

    x: float
    y: float
    unit: float
    tilt: float
    opening: float
    shape: float
    eyes: float
    brows: float
    gaze: float = 0.0
    smile: float = 0.0


def sample_character(rng: np.random.Generator, split: str) -> Character:
    """Sample a character; the splits "train" and "held-out" have disjoint shapes and palettes."""
    skin = _jitter(rng, _SKIN_COLORS[split][rng.integers(len(_SKIN_COLORS[split]))])
    return Character(
        width=_uniform_in(rng, _FACE_WIDTHS[split]),
        exponent=_uniform_in(rng, _FACE_EXPONENTS[split]),
        skin=skin,
        hair=str(rng.choice(HAIR_STYLES)),
        hair_color=_jitter(rng, _HAIR_COLORS[split][rng.integers(len(_HAIR_COLORS[split]))]),
        hat=str(rng.choice(HATS)),
        hat_color=sample_color(rng, split, 0.8, 0.7),
        glasses=str(rng.choice(GLASSES)),
        shirt=sample_color(rng, split, 0.6, 0.75),
        iris=_jitter(rng, [(60, 90, 150), (70, 110, 60), (80, 50, 30)][rng.integers(3)]),
        lips=_shade(skin, (0.86, 0.52, 0.52)),
        eye_offset=rng.uniform(0.32, 0.42),
        eye_size=rng.uniform(0.13, 0.18),
        nose=rng.uniform(0.06, 0.11),
        mouth_width=rng.uniform(0.34, 0.44),
        mouth_y=rng.uniform(0.48, 0.55),
        ears=bool(rng.random() < 0.7),
    )


def sample_color(rng: np.random.Generator, split: str, saturation: float, value: float) -> Color:
    """Sample a color with one of the split's hues."""
    hue = _uniform_in(rng, _HUES[split])
    s, v = saturation * rng.uniform(0.5, 1.1), min(1.0, value * rng.uniform(0.75, 1.25))
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    rgb = v * (1 - s * np.clip(np.minimum(k, 4 - k), 0, 1))
    return _color(rgb * 255)


def paint_character(draw: ImageDraw.ImageDraw, person: Character, pose: Pose) -> None:
    """Draw a character from back to front."""
    brush = _Brush(draw, pose)
    _paint_body(brush, person)
    _paint_back_hair(brush, person)
    if person.ears:
        for side in (-1, 1):
            brush.blob(side * person.width, 0.0, 0.14, 0.2, _shade(person.skin, (0.93, 0.88, 0.86)))
    brush.blob(0, 0, person.width, 1.0, person.skin, person.exponent)
    _paint_eyes(brush, person, pose)
    brush.blob(0, 0.16, person.nose, 0.14, _shade(person.skin, (0.9, 0.82, 0.8)))
    _paint_mouth(brush, person, pose)
    _paint_front_hair(brush, person)
    _paint_hat(brush, person)
    _paint_glasses(brush, person)


class _Brush:
    """Draws shapes given in the coordinates of a face."""

    def __init__(self, draw: ImageDraw.ImageDraw, pose: Pose) -> None:
        self.draw = draw
        cos, sin = np.cos(pose.tilt) * pose.unit, np.sin(pose.tilt) * pose.unit
        self.rotation = np.array([[cos, sin], [-sin, cos]])
        self.origin = np.array([pose.x, pose.y])

    def polygon(self, points: object, color: Color) -> None:
        """Fill a polygon."""
        flat = (np.asarray(points, float) @ self.rotation + self.origin).ravel().tolist()
        self.draw.polygon(flat, fill=color)

    def blob(
        self, x: float, y: float, half_width: float, half_height: float, color: Color, exponent: float = 2
    ) -> None:
        """Fill a superellipse."""
        self.polygon(_superellipse(x, y, half_width, half_height, exponent), color)


def _superellipse(x: float, y: float, half_width: float, half_height: float, exponent: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    x_unit, y_unit = (np.sign(each) * np.abs(each) ** (2 / exponent) for each in (cos, sin))
    return np.stack((x_unit, y_unit), axis=1) * (half_width, half_height) + (x, y)


def _paint_body(brush: _Brush, person: Character) -> None:
    brush.blob(0, 2.1, 1.35, 0.95, person.shirt, 2.6)
    brush.polygon([(-0.3, 0.7), (0.3, 0.7), (0.36, 1.35), (-0.36, 1.35)], _shade(person.skin, (0.9, 0.86, 0.84)))


def _paint_back_hair(brush: _Brush, person: Character) -> None:
    if person.hair == "long":
        brush.blob(0, 0.25, person.width + 0.24, 1.35, person.hair_color, 2.8)
    elif person.hair == "bun":
        brush.blob(0, -1.2, 0.36, 0.32, person.hair_color)
        brush.blob(0, -0.25, person.width + 0.1, 0.92, person.hair_color)
    elif person.hair == "curly":
        for angle in np.linspace(np.pi * 0.9, np.pi * 2.1, 9):
            brush.blob((person.width + 0.08) * np.cos(angle), 0.95 * np.sin(angle), 0.3, 0.3, person.hair_color)
    elif person.hair in ("short", "spiky"):
        brush.blob(0, -0.3, person.width + 0.08, 0.86, person.hair_color, person.exponent)


def _paint_front_hair(brush: _Brush, person: Character) -> None:
    """Draw the fringe: the outline of the forehead with a separate lower edge."""
    if person.hair == "none":
        return
    outline = _superellipse(0, 0, person.width * 1.03, 1.05, person.exponent)
    top = outline[outline[:, 1] < -0.55]
    top = top[np.argsort(top[:, 0])]
    if person.hair == "spiky":
        zigzag = [(x, -0.5 - 0.16 * (i % 2)) for i, x in enumerate(np.linspace(top[-1, 0], top[0, 0], 7))]
        brush.polygon(np.concatenate((top, zigzag)), person.hair_color)
        for x in np.linspace(-0.5, 0.5, 4):
            brush.polygon([(x - 0.2, -0.8), (x, -1.3), (x + 0.2, -0.8)], person.hair_color)
        return
    brush.polygon(np.concatenate((top, [(top[-1, 0], -0.5), (0.1, -0.66), (top[0, 0], -0.46)])), person.hair_color)


def _paint_eyes(brush: _Brush, person: Character, pose: Pose) -> None:
    lid = _shade(person.skin, (0.7, 0.62, 0.6))
    for side in (-1, 1):
        x, y = side * person.eye_offset, -0.18
        height = person.eye_size * pose.eyes
        if height < 0.035:
            brush.blob(x, y + 0.03, person.eye_size * 1.1, 0.03, lid)
        else:
            brush.blob(x, y, person.eye_size * 1.15, height, (250, 250, 248))
            brush.blob(x, y, min(0.085, height), min(0.085, height), person.iris)
        brow = -0.43 - 0.13 * pose.brows
        brush.blob(x, brow, person.eye_size * 1.2, 0.04, _shade(person.hair_color, (0.85, 0.85, 0.85)))


def _paint_mouth(brush: _Brush, person: Character, pose: Pose) -> None:
    width = person.mouth_width * (1 + 0.16 * pose.shape - 0.1 * pose.opening)
    inside = MOUTH_HEIGHT * pose.opening
    brush.blob(0, person.mouth_y, width, inside + 0.055, person.lips, 2.2)
    if inside > 0.015:
        brush.blob(0, person.mouth_y, width - 0.06, inside, MOUTH_INSIDE, 2.2)


def _paint_hat(brush: _Brush, person: Character) -> None:
    band = _shade(person.hat_color, (0.75, 0.75, 0.75))
    if person.hat == "cap":
        brush.blob(0, -0.75, person.width + 0.06, 0.42, person.hat_color, 2.6)
        brush.blob(0.25, -0.52, person.width + 0.1, 0.09, band)
    elif person.hat == "beanie":
        brush.blob(0, -0.85, person.width + 0.05, 0.5, person.hat_color, 2.2)
        brush.blob(0, -0.6, person.width + 0.08, 0.12, band, 4)
    elif person.hat == "top":
        brush.polygon([(-0.6, -0.75), (-0.55, -1.55), (0.55, -1.55), (0.6, -0.75)], person.hat_color)
        brush.blob(0, -0.72, person.width + 0.25, 0.1, band, 3)


def _paint_glasses(brush: _Brush, person: Character) -> None:
    if person.glasses == "none":
        return
    exponent = 2 if person.glasses == "round" else 5
    size = person.eye_size + 0.1
    for side in (-1, 1):
        outer = _superellipse(side * person.eye_offset, -0.18, size, size, exponent)
        inner = _superellipse(side * person.eye_offset, -0.18, size - 0.055, size - 0.055, exponent)
        ring = np.concatenate((outer, outer[:1], inner[:1], inner[::-1]))
        brush.polygon(ring, (70, 66, 74))
    bridge = person.eye_offset - size
    brush.polygon([(-bridge, -0.22), (bridge, -0.22), (bridge, -0.17), (-bridge, -0.17)], (70, 66, 74))


def _uniform_in(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> float:
    low, high = ranges[rng.integers(len(ranges))]
    return float(rng.uniform(low, high))


def _jitter(rng: np.random.Generator, color: Color) -> Color:
    return _color(np.array(color) + rng.uniform(-8, 8, 3))


def _shade(color: Color, factors: tuple[float, float, float]) -> Color:
    return _color(np.array(color) * factors)


def _color(rgb: NDArray[np.float64]) -> Color:
    r, g, b = np.clip(np.round(rgb), 0, 255).astype(int).tolist()
    return r, g, b
