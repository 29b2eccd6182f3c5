"""Bounding boxes of persons, parsed from text."""

import math
from dataclasses import dataclass

import numpy as np

from src.errors import InputError, truncated_repr

EXAMPLE = "0.05,0.1,0.45,1; 0.55,0.1,0.95,1"
FORMAT = f"x1,y1,x2,y2 (left, top, right, bottom) per person, persons separated by ';', for example {EXAMPLE!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Pixels of an image, half-open: columns [left, right), rows [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def to_mask(self, height: int, width: int) -> np.ndarray:
        """Bool height x width, True inside."""
        mask_HW = np.zeros((height, width), bool)
        mask_HW[self.top : self.bottom, self.left : self.right] = True
        return mask_HW


def parse_boxes(text: str, *, width: int, height: int, name: str = "person_boxes") -> tuple[Box, ...]:
    """Parse `x1,y1,x2,y2; x1,y1,x2,y2` for an image of width x height pixels.

    A box whose numbers are all at most 1 is in fractions of the image, any other in pixels. Raises InputError for text
    in another format, and for a box that is empty, reversed, or outside the image.
    """
    parts = [part.strip() for part in text.strip().removesuffix(";").split(";")]
    return tuple(
        _parse_box(part, width, height, f"{name}: box {number} is {truncated_repr(part)}")
        for number, part in enumerate(parts, 1)
    )


def _parse_box(text: str, width: int, height: int, what: str) -> Box:
    """One box; `what` begins the error message."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise InputError(f"{what}; four numbers are needed: {FORMAT}")
    is_fraction = max(numbers) <= 1
    x1, y1, x2, y2 = numbers
    max_x, max_y = (1, 1) if is_fraction else (width, height)
    unit = "as fractions of the image" if is_fraction else "in pixels"
    if not (0 <= x1 < x2 <= max_x and 0 <= y1 < y2 <= max_y):
        raise InputError(
            f"{what}; {unit} it must satisfy 0 <= x1 < x2 <= {max_x} and 0 <= y1 < y2 <= {max_y} "
            f"(the image has {width} x {height} pixels)"
        )
    scale_x, scale_y = (width, height) if is_fraction else (1, 1)
    box = Box(left=round(x1 * scale_x), top=round(y1 * scale_y), right=round(x2 * scale_x), bottom=round(y2 * scale_y))
    if box.left == box.right or box.top == box.bottom:
        raise InputError(f"{what}; it must be at least 1 pixel wide and high in an image of {width} x {height}")
    return box
