"""Draws the example pictures: `python examples/draw.py` writes portrait.png and two_people.png beside it.

A head is 2 units wide with its middle at (0, 0), y downward; a `Brush` maps units to pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FINE = 3  # drawn larger by this factor, then reduced, for smooth edges
Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What tells two people apart."""

    skin: Colour
    hair: Colour
    shirt: Colour
    iris: Colour
    lips: Colour
    long_hair: bool
    glasses: bool


ANNA = Person(
    skin=(240, 198, 168),
    hair=(104, 56, 36),
    shirt=(206, 92, 84),
    iris=(86, 122, 74),
    lips=(198, 88, 92),
    long_hair=True,
    glasses=False,
)
BEN = Person(
    skin=(196, 142, 104),
    hair=(38, 32, 34),
    shirt=(64, 104, 142),
    iris=(92, 62, 40),
    lips=(164, 92, 80),
    long_hair=False,
    glasses=True,
)


@dataclass(frozen=True, slots=True)
class Brush:
    """Draws in units on `image`: `scale` pixels a unit, (0, 0) at `origin`."""

    image: Image.Image
    origin: Point
    scale: float

    def ellipse(
        self, middle: Point, radii: Point, colour: Colour, *, soft: float = 0, alpha: int = 255
    ) -> None:
        """A filled ellipse; `soft` blurs its edge by so many units."""
        (x, y), (wide, high) = middle, radii
        self.paint([(x - wide, y - high), (x + wide, y + high)], colour, soft, alpha, oval=True)

    def shape(self, points: Sequence[Point], colour: Colour, *, soft: float = 0, alpha: int = 255) -> None:
        """A filled closed curve that runs smoothly through `points`."""
        self.paint(smooth(points), colour, soft, alpha, oval=False)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """An open curve with round ends, as a row of close dots."""
        draw = ImageDraw.Draw(self.image)
        radius = width * self.scale / 2
        for x, y in map(self.pixel, smooth(points, closed=False, pieces=240)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def paint(self, points: Sequence[Point], colour: Colour, soft: float, alpha: int, *, oval: bool) -> None:
        """Lay one colour through a mask."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        pixels = [self.pixel(point) for point in points]
        if oval:
            draw.ellipse((*pixels[0], *pixels[1]), fill=alpha)
        else:
            draw.polygon(pixels, fill=alpha)
        if soft:
            mask = mask.filter(ImageFilter.GaussianBlur(soft * self.scale))
        self.image.paste(colour, (0, 0), mask)

    def pixel(self, point: Point) -> Point:
        """Units to pixels."""
        return self.origin[0] + point[0] * self.scale, self.origin[1] + point[1] * self.scale


def smooth(points: Sequence[Point], *, closed: bool = True, pieces: int = 24) -> list[Point]:
    """A Catmull-Rom curve through `points`."""
    count = len(points)
    curve = []
    for start in range(count if closed else count - 1):
        indices = (start - 1, start, start + 1, start + 2)
        corners = [points[i % count] if closed else points[min(max(i, 0), count - 1)] for i in indices]
        for step in range(pieces + 1):
            t = step / pieces
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (-(t**2) + t**3) / 2,
            )
            x, y = (sum(w * c[axis] for w, c in zip(weights, corners, strict=True)) for axis in (0, 1))
            curve.append((x, y))
    return curve


def darker(colour: Colour, by: float) -> Colour:
    """The colour in shade; a negative `by` lightens."""
    red, green, blue = (min(255, max(0, round(value * (1 - by)))) for value in colour)
    return red, green, blue


def mirrored(points: Sequence[Point]) -> list[Point]:
    """A whole shape, given its left half from top to bottom."""
    return [*points, *((-x, y) for x, y in reversed(points) if x)]


def draw_person(brush: Brush, person: Person) -> None:
    """From back to front."""
    draw_back_hair(brush, person)
    draw_body(brush, person)
    draw_head(brush, person)
    for side in (-1, 1):
        draw_eye(brush, person, side)
    draw_nose_and_mouth(brush, person)
    draw_front_hair(brush, person)
    if person.glasses:
        draw_glasses(brush)


def draw_back_hair(brush: Brush, person: Person) -> None:
    """What shows behind head and neck."""
    if person.long_hair:
        half = [
            (0, -1.62),
            (-0.86, -1.36),
            (-1.3, -0.5),
            (-1.36, 0.6),
            (-1.5, 1.5),
            (-1.1, 2.05),
            (-0.4, 1.9),
        ]
        brush.shape(mirrored(half), darker(person.hair, 0.22))
    else:
        half = [(0, -1.5), (-0.78, -1.3), (-1.1, -0.7), (-1.06, 0.0), (-0.9, 0.3)]
        brush.shape(mirrored(half), person.hair)


def draw_body(brush: Brush, person: Person) -> None:
    """Shoulders, neck and collar."""
    shade = darker(person.shirt, 0.2)
    brush.shape(mirrored([(-0.55, 1.62), (-1.35, 1.86), (-2.1, 2.3), (-2.5, 3.4), (-2.5, 5.0)]), person.shirt)
    for side in (-1, 1):
        brush.shape([(side * 1.5, 2.9), (side * 1.7, 5.0), (side * 1.3, 5.0)], shade, soft=0.08)
    brush.shape(
        mirrored([(-0.46, 0.7), (-0.46, 1.45), (-0.74, 1.78), (-0.3, 2.16)]), darker(person.skin, 0.07)
    )
    brush.ellipse((0, 1.2), (0.3, 0.24), darker(person.skin, 0.3), soft=0.1, alpha=150)
    brush.line([(-0.78, 1.76), (-0.34, 2.18), (0, 2.28), (0.34, 2.18), (0.78, 1.76)], 0.13, shade)


def draw_head(brush: Brush, person: Person) -> None:
    """Ears, face, and a little shade and colour on it."""
    if not person.long_hair:
        for side in (-1, 1):
            brush.ellipse((side * 0.97, 0.12), (0.17, 0.28), darker(person.skin, 0.08))
            brush.ellipse((side * 0.98, 0.12), (0.08, 0.16), darker(person.skin, 0.24), soft=0.03)
    jaw = 0.62 if person.long_hair else 0.7
    half = [(0, -1.22), (-0.68, -0.98), (-0.94, -0.3), (-0.9, 0.4), (-jaw, 0.92), (-0.26, 1.22)]
    brush.shape(mirrored(half), person.skin)
    shaded = [(0.74, -0.7), (0.88, -0.2), (0.82, 0.42), (0.5, 0.94), (0.72, 0.3)]
    brush.shape(shaded, darker(person.skin, 0.2), soft=0.1, alpha=90)
    for side in (-1, 1):
        brush.ellipse((side * 0.55, 0.42), (0.2, 0.14), (226, 110, 96), soft=0.09, alpha=80)


def draw_eye(brush: Brush, person: Person, side: int) -> None:
    """One eye with its brow; `side` is -1 for the left of the picture."""
    x, y = side * 0.4, -0.08
    brush.ellipse((x, y - 0.02), (0.27, 0.2), darker(person.skin, 0.22), soft=0.06, alpha=110)
    white = [
        (x - 0.22, y + 0.02),
        (x - 0.08, y - 0.1),
        (x + 0.08, y - 0.1),
        (x + 0.22, y + 0.02),
        (x, y + 0.11),
    ]
    brush.shape(white, (250, 248, 244))
    brush.ellipse((x, y), (0.105, 0.108), darker(person.iris, 0.3))
    brush.ellipse((x, y + 0.012), (0.085, 0.086), person.iris)
    brush.ellipse((x, y), (0.046, 0.048), (22, 18, 18))
    brush.ellipse((x + 0.035, y - 0.036), (0.024, 0.024), (255, 255, 255))
    lid = [(x - 0.235, y + 0.03), (x - 0.09, y - 0.105), (x + 0.09, y - 0.105), (x + 0.235, y + 0.03)]
    brush.line(lid, 0.045 if person.long_hair else 0.035, (46, 32, 30))
    brow = [(x - side * 0.22, y - 0.27), (x, y - 0.34), (x + side * 0.26, y - 0.25)]
    brush.line(brow, 0.05 if person.long_hair else 0.07, darker(person.hair, 0.1))


def draw_nose_and_mouth(brush: Brush, person: Person) -> None:
    """A soft nose and a closed, friendly mouth."""
    shade, crease = darker(person.skin, 0.26), darker(person.lips, 0.5)
    brush.shape([(0.03, -0.1), (0.1, 0.3), (0.17, 0.42), (0.05, 0.44), (0, 0.2)], shade, soft=0.04, alpha=120)
    brush.line([(-0.13, 0.41), (-0.07, 0.455), (0, 0.44), (0.07, 0.455), (0.13, 0.41)], 0.032, shade)
    brush.ellipse((-0.015, 0.33), (0.05, 0.06), darker(person.skin, -0.1), soft=0.03, alpha=150)
    upper = [(-0.32, 0.715), (-0.1, 0.675), (0, 0.695), (0.1, 0.675), (0.32, 0.715), (0, 0.775)]
    lower = [(-0.32, 0.715), (0, 0.76), (0.32, 0.715), (0.16, 0.86), (0, 0.89), (-0.16, 0.86)]
    brush.shape(lower, person.lips)
    brush.shape(upper, darker(person.lips, 0.14))
    brush.line([(-0.35, 0.69), (-0.16, 0.755), (0, 0.765), (0.16, 0.755), (0.35, 0.69)], 0.026, crease)
    brush.ellipse((-0.02, 0.83), (0.1, 0.018), darker(person.lips, -0.3), soft=0.015, alpha=150)
    brush.ellipse((0, 0.98), (0.16, 0.05), shade, soft=0.04, alpha=100)


def draw_front_hair(brush: Brush, person: Person) -> None:
    """What falls over the forehead, with a lighter strand."""
    light = darker(person.hair, -0.35)
    if person.long_hair:
        left = [(0.22, -1.5), (-0.62, -1.42), (-1.14, -0.8), (-1.24, 0.3), (-1.16, 1.3), (-0.98, 1.5)]
        brush.shape([*left, (-0.92, 0.7), (-0.9, -0.1), (-0.72, -0.6), (-0.1, -0.98)], person.hair)
        right = [(0.0, -1.5), (0.72, -1.36), (1.16, -0.7), (1.24, 0.3), (1.16, 1.3), (0.98, 1.5)]
        brush.shape([*right, (0.93, 0.7), (0.92, -0.1), (0.78, -0.62), (0.3, -1.1)], person.hair)
        for strand in ([(-0.2, -1.3), (-0.84, -0.9), (-1.08, 0.0)], [(0.5, -1.3), (0.96, -0.8), (1.1, 0.1)]):
            brush.line(strand, 0.035, light)
    else:
        top = [
            (-1.0, -0.2),
            (-1.12, -0.8),
            (-0.7, -1.42),
            (0.1, -1.58),
            (0.82, -1.34),
            (1.1, -0.7),
            (1.0, -0.2),
        ]
        hairline = [(0.88, -0.62), (0.5, -0.86), (-0.1, -0.78), (-0.6, -0.9), (-0.86, -0.62)]
        brush.shape([*top, *hairline], person.hair)
        brush.line([(-0.5, -1.28), (0.1, -1.4), (0.62, -1.22)], 0.04, light)


def draw_glasses(brush: Brush) -> None:
    """A thin round frame."""
    frame = (52, 48, 56)
    for side in (-1, 1):
        angles = [math.tau * step / 16 for step in range(17)]
        rim = [(side * 0.41 + 0.31 * math.cos(angle), -0.05 + 0.28 * math.sin(angle)) for angle in angles]
        brush.line(rim, 0.04, frame)
        brush.line([(side * 0.72, -0.1), (side * 0.93, -0.06)], 0.04, frame)
    brush.line([(-0.1, -0.08), (0, -0.12), (0.1, -0.08)], 0.04, frame)


def backdrop(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    """A calm wall, lit from above."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def draw(size: tuple[int, int], people: Sequence[tuple[Person, Point]], scale: float) -> Image.Image:
    """A picture of `people`, each with the middle of the face at a point in pixels."""
    image = backdrop((size[0] * FINE, size[1] * FINE), (222, 232, 236), (176, 196, 206))
    for person, (x, y) in people:
        draw_person(Brush(image, (x * FINE, y * FINE), scale * FINE), person)
    return image.resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    """Write both pictures."""
    folder = Path(__file__).parent
    blouse = replace(ANNA, shirt=(72, 130, 122))
    draw((768, 768), [(blouse, (384, 350))], 160).save(folder / "portrait.png", optimize=True)
    pair = [(ANNA, (268, 236)), (BEN, (756, 226))]
    draw((1024, 512), pair, 98).save(folder / "two_people.png", optimize=True)


if __name__ == "__main__":
    main()
