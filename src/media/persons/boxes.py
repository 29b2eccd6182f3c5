"""Where people are in a picture, from text: one rectangle each."""

import math
from dataclasses import dataclass

from src.errors import InputError, truncated_repr

EXAMPLE = "0.05,0.1,0.45,1; 0.55,0.1,0.95,1"
FORMAT = f"x1,y1,x2,y2 (left, top, right, bottom) per person, persons separated by ';', for example {EXAMPLE!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Pixels of a picture, half open: columns [left, right), rows [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int


def parse_boxes(text: str, *, width: int, height: int, name: str = "person_boxes") -> tuple[Box, ...]:
    """`x1,y1,x2,y2; x1,y1,x2,y2` as rectangles of a picture of width x height pixels.

    A box whose numbers are all at most 1 is in fractions of the picture, any other in pixels. Raises InputError
    for text of another form, and for a box that is empty, reversed, or outside the picture.
    """
    parts = [part.strip() for part in text.strip().removesuffix(";").split(";")]
    return tuple(
        _parse_box(part, width, height, f"{name}: box {number} is {truncated_repr(part)}")
        for number, part in enumerate(parts, 1)
    )


def _parse_box(text: str, width: int, height: int, what: str) -> Box:
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise InputError(f"{what}; four numbers are needed: {FORMAT}")
    fractions = max(sides) <= 1
    x1, y1, x2, y2 = sides
    right_edge, bottom_edge = (1, 1) if fractions else (width, height)
    unit = "as fractions of the picture" if fractions else "in pixels"
    if not (0 <= x1 < x2 <= right_edge and 0 <= y1 < y2 <= bottom_edge):
        raise InputError(
            f"{what}; {unit} it must hold 0 <= x1 < x2 <= {right_edge} and 0 <= y1 < y2 <= {bottom_edge} "
            f"(the picture has {width} x {height} pixels)"
        )
    scale_x, scale_y = (width, height) if fractions else (1, 1)
    box = Box(left=round(x1 * scale_x), top=round(y1 * scale_y), right=round(x2 * scale_x), bottom=round(y2 * scale_y))
    if box.left == box.right or box.top == box.bottom:
        raise InputError(f"{what}; it must be at least 1 pixel wide and high in a picture of {width} x {height}")
    return box
