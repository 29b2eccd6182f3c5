"""Clips to learn from: one or two drawn people who talk, and everything that a model is told about them.

Shapes: F frames, H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from src.media.rates import FPS
from training.characters import Character, Color, Pose, draw_character, draw_color, paint
from training.mouths import Track
from wan.conditioning.speakers import BoxRegion

_SUPERSAMPLING = 4
_STAGING = 6
"""Frames in which a face takes on what the prompt says."""

SMALL = {"wide": (64, 128), "square": (96, 96), "upright": (128, 64)}
"""Height and width of the frames, as the small model's buckets of the class 480 have them."""
LARGE = {"wide": (96, 192), "square": (144, 144), "upright": (192, 96)}
"""Those of its class 720."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """What is behind the people."""

    kind: str
    colors: tuple[Color, Color]
    phase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a person is and how they move: pixels, radians, frames."""

    x: float
    y: float
    unit: float
    sway: tuple[float, float, float]
    """Amplitude in units of the face, frequency in Hz, phase."""
    tilt: tuple[float, float, float]
    blinks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """People in front of a backdrop; everything but their mouths."""

    size: tuple[int, int]
    people: tuple[Character, ...]
    placements: tuple[Placement, ...]
    backdrop: Backdrop
    prompt: str
    eyes_closed: bool
    brows_raised: bool


def draw_scene(rng: np.random.Generator, persons: int, size: tuple[int, int], frames: int, split: str) -> Scene:
    """A new scene; two persons stand side by side, in an upright picture one above the other."""
    eyes_closed, brows_raised = rng.random() < 0.3, rng.random() < 0.3
    return Scene(
        size=size,
        people=tuple(draw_character(rng, split) for _ in range(persons)),
        placements=tuple(_place(rng, i, persons, size, frames) for i in range(persons)),
        backdrop=Backdrop(
            kind=str(rng.choice(["plain", "gradient", "floor", "stripes", "window", "dots"])),
            colors=(draw_color(rng, split, 0.35, 0.8), draw_color(rng, split, 0.4, 0.7)),
            phase=rng.random(),
        ),
        prompt=describe(rng, persons, eyes_closed, brows_raised),
        eyes_closed=bool(eyes_closed),
        brows_raised=bool(brows_raised),
    )


def describe(rng: np.random.Generator, persons: int, eyes_closed: bool, brows_raised: bool) -> str:
    """A sentence about the scene; "eyes closed" and "eyebrows raised" are what the picture obeys.

    All else, order and punctuation among it, tells nothing about the faces and must not be mistaken for it.
    """
    who = _TWO if persons == 2 else _ONE
    asked = [phrase for phrase, said in (("eyes closed", eyes_closed), ("eyebrows raised", brows_raised)) if said]
    idle = rng.choice(_IDLE, size=rng.integers(0, 3), replace=False).tolist()
    manner = [str(phrase) for phrase in rng.permutation(asked + idle)]
    opening = f"{rng.choice(who)} {rng.choice(_VERBS)}{rng.choice(_PLACES)}"
    joint = str(rng.choice([", ", " and ", "; ", ", with "]))
    return joint.join([opening, *manner]) + str(rng.choice([".", "", "!"]))


_ONE = ("A person", "Somebody", "A cartoon character", "A drawn face", "One friend", "A woman", "A man")
_TWO = ("Two people", "Two friends", "Anna and Ben", "Two cartoon characters", "They", "People")
_VERBS = ("talking", "speaking", "chatting", "in conversation", "telling a story", "talk naturally", "says hello")
_PLACES = ("", "", " in a room", " before a wall", " outside", " in the studio", " at home", ", close up,")
_IDLE = (
    "lively faces",
    "small gestures",
    "while the camera stands still",
    "soft light",
    "eyes wide open",
    "blue eyes",
    "raised voices",
    "the door is closed",
    "thick eyebrows",
    "closed captions",
    "high quality",
    "the sun is setting",
    "in good spirits",
    "blurred, distorted, flickering",
)


def _place(rng: np.random.Generator, index: int, persons: int, size: tuple[int, int], frames: int) -> Placement:
    height, width = size
    cell_height, cell_width = height, width
    top, left = 0.0, 0.0
    if persons == 2 and height > width:
        cell_height, top = height // 2, index * height / 2
    elif persons == 2:
        cell_width, left = width // 2, index * width / 2
    unit = min(cell_height * rng.uniform(0.28, 0.36), cell_width * rng.uniform(0.36, 0.43))
    slack_x = max(0.0, cell_width / 2 - 1.12 * unit)
    slack_y = max(0.0, cell_height / 2 - 1.3 * unit)
    return Placement(
        x=left + cell_width / 2 + slack_x * rng.uniform(-1, 1),
        y=top + cell_height * 0.52 + slack_y * rng.uniform(-0.8, 0.8),
        unit=unit,
        sway=(rng.uniform(0, 0.05), rng.uniform(0.2, 0.7), rng.uniform(0, 2 * np.pi)),
        tilt=(rng.uniform(0, 0.06), rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi)),
        blinks=tuple(np.flatnonzero(rng.random(frames) < 0.012).tolist()),
    )


def render(scene: Scene, openings: list[Track], shapes: list[Track], start: int = 0) -> NDArray[np.uint8]:
    """The frames of a scene, F x H x W x 3; a track per person says how the mouth stands. `start`: frames gone by."""
    return np.stack(
        [
            render_frame(
                scene, [_pose(scene, i, start + f, openings[i][f], shapes[i][f]) for i in range(len(openings))]
            )
            for f in range(len(openings[0]))
        ]
    )


def draw_still(scene: Scene) -> NDArray[np.uint8]:
    """The first frame with closed mouths, H x W x 3: the picture that a user would send."""
    rest = [np.zeros(1)] * len(scene.people)
    return render(scene, rest, rest)[0]


def render_frame(scene: Scene, poses: list[Pose]) -> NDArray[np.uint8]:
    """One frame, H x W x 3, antialiased."""
    height, width = scene.size
    canvas = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    _paint_backdrop(draw, scene.backdrop, canvas.height, canvas.width)
    for person, pose in zip(scene.people, poses, strict=True):
        scaled = pose._replace(x=pose.x * _SUPERSAMPLING, y=pose.y * _SUPERSAMPLING, unit=pose.unit * _SUPERSAMPLING)
        paint(draw, person, scaled)
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def face_boxes(scene: Scene) -> list[BoxRegion]:
    """The box of every face, hair and sway included, within the picture."""
    height, width = scene.size
    return [
        BoxRegion(
            top=max(0, int(place.y - 1.15 * place.unit)),
            left=max(0, int(place.x - 1.0 * place.unit)),
            bottom=min(height, int(np.ceil(place.y + 1.1 * place.unit))),
            right=min(width, int(np.ceil(place.x + 1.0 * place.unit))),
        )
        for place in scene.placements
    ]


def _pose(scene: Scene, index: int, frame: int, opening: float, shape: float) -> Pose:
    place = scene.placements[index]
    staged = min(1.0, frame / _STAGING)
    eyes = min([1.0, *(abs(frame - blink) / 2.5 for blink in place.blinks)])
    if scene.eyes_closed:
        eyes = min(eyes, 1 - staged)
    return Pose(
        x=place.x + place.unit * _swing(place.sway, frame),
        y=place.y + 0.5 * place.unit * _swing(place.sway, 1.7 * frame),
        unit=place.unit,
        tilt=_swing(place.tilt, frame),
        opening=float(opening),
        shape=float(shape),
        eyes=eyes,
        brows=staged if scene.brows_raised else 0.0,
    )


def _swing(motion: tuple[float, float, float], frame: float) -> float:
    amplitude, frequency, phase = motion
    return amplitude * float(np.sin(2 * np.pi * frequency * frame / FPS + phase))


def _paint_backdrop(draw: ImageDraw.ImageDraw, backdrop: Backdrop, height: int, width: int) -> None:
    first, second = backdrop.colors
    draw.rectangle((0, 0, width, height), fill=first)
    if backdrop.kind == "gradient":
        for row in range(0, height, 4):
            share = row / height
            color = tuple(round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))
            draw.rectangle((0, row, width, row + 4), fill=color)
    elif backdrop.kind == "floor":
        draw.rectangle((0, height * (0.55 + 0.25 * backdrop.phase), width, height), fill=second)
    elif backdrop.kind == "stripes":
        step = height / 3
        for i in range(int(width / step) + 2):
            left = (i - backdrop.phase) * step
            draw.rectangle((left, 0, left + step / 2, height), fill=second)
    elif backdrop.kind == "window":
        left, top = width * (0.1 + 0.6 * backdrop.phase), height * 0.12
        draw.rectangle((left, top, left + height * 0.4, top + height * 0.4), fill=second)
    elif backdrop.kind == "dots":
        step = height / 3
        for row in range(4):
            for column in range(int(width / step) + 2):
                x, y = (column - backdrop.phase) * step, (row - 0.3) * step
                draw.ellipse((x, y, x + step / 3, y + step / 3), fill=second)
