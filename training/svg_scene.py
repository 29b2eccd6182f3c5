"""Shaded drawings of whole scenes: backdrop, characters and light as one SVG document, drawn by resvg."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.characters import Character, Color, Pose
from training.svg_character import draw_character, ellipse, glow, gradient, path, shade, stretch

BACKGROUND_COLORS: dict[str, Color] = {"red": (196, 60, 56), "green": (70, 150, 84), "blue": (58, 104, 190)}
"""Colors that a prompt may give to the background."""
_NIGHT: Color = (16, 22, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """What is behind the characters."""

    kind: str
    colors: tuple[Color, Color]
    phase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """The color that a prompt gives to the background ("" for none) with its strength, and how much it is night."""

    background: str = ""
    strength: float = 0.0
    night: float = 0.0


def draw_scene(
    size: tuple[int, int],
    backdrop: Backdrop,
    people: Sequence[tuple[Character, Pose]],
    light: Light,
) -> NDArray[np.uint8]:
    """One frame, H x W x 3."""
    height, width = size
    parts = [_draw_backdrop(backdrop, height, width)]
    if light.background:
        parts.append(_veil(width, height, BACKGROUND_COLORS[light.background], 0.8 * light.strength))
    parts.append(_veil(width, height, _NIGHT, 0.72 * light.night))
    parts += [draw_character(person, pose, str(i)) for i, (person, pose) in enumerate(people)]
    parts.append(_veil(width, height, _NIGHT, 0.3 * light.night))
    document = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{"".join(parts)}</svg>'
    import resvg_py  # only shaded drawings need it

    png = bytes(resvg_py.svg_to_bytes(svg_string=document, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _veil(width: int, height: int, color: Color, opacity: float) -> str:
    if opacity <= 0:
        return ""
    return f'<rect width="{width}" height="{height}" fill="{shade(color, 1)}" fill-opacity="{opacity:.3f}"/>'


def _rect(x: float, y: float, width: float, height: float, fill: str, extra: str = "") -> str:
    return f'<rect x="{x:.3f}" y="{y:.3f}" width="{width:.3f}" height="{height:.3f}" fill="{fill}" {extra}/>'


def _draw_backdrop(backdrop: Backdrop, height: int, width: int) -> str:
    first, second = backdrop.colors
    wall = gradient("wall", (shade(first, 1.16), shade(first, 0.84)), 'x1="0" y1="0" x2="0.25" y2="1"')
    wall += _rect(0, 0, width, height, "url(#wall)")
    return wall + _draw_decoration(backdrop.kind, second, backdrop.phase, height, width)


def _draw_decoration(kind: str, color: Color, phase: float, height: int, width: int) -> str:
    """What is on the wall, in units of the frame's height: a light, hills, stripes, a window or dots."""
    w, pale = width / height, shade(color, 1.1)
    parts: list[str] = []
    if kind == "gradient":
        parts = [glow("glow", shade(color, 1.4), 0.8), ellipse(w * (0.2 + 0.6 * phase), 0.3, 0.6, 0.6, "url(#glow)")]
    elif kind == "floor":
        hill = stretch("M0,0 Q.3,-.14 .6,0 T1,-.05 L1,1 L0,1 Z", w, y=0.62 + 0.2 * phase)
        parts = [path(hill, shade(color)), path(stretch(hill, 1, y=0.12), shade(color, 0.8))]
    elif kind == "stripes":
        parts = [_rect((i - phase) / 3, 0, 0.15, 1, pale, 'fill-opacity="0.55"') for i in range(int(3 * w) + 2)]
    elif kind == "window":
        left, top, side, frame = w * (0.1 + 0.6 * phase), 0.1, 0.44, "rgb(250,248,240)"
        parts = [
            _rect(left, top, side, side, shade(color, 1.35), f'stroke="{frame}" stroke-width="0.03"'),
            ellipse(left + 0.13, top + 0.13, 0.045, 0.045, "rgb(255,244,190)"),
            _rect(left + 0.21, top, 0.02, side, frame),
            _rect(left, top + 0.21, side, 0.02, frame),
        ]
    elif kind == "dots":
        parts = [
            ellipse((column - phase) / 3, (row + 0.1) / 3, 0.048, 0.048, pale, 'fill-opacity="0.7"')
            for row in range(4)
            for column in range(int(3 * w) + 2)
        ]
    return f'<g transform="scale({height})">{"".join(parts)}</g>'
