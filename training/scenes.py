"""Scenes of one or two talking cartoon characters, their prompts, and rendering of their frames.

Shapes: F frames, H x W pixels.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from src.media.persons.boxes import Box
from src.media.rates import FPS
from training.characters import Character, Pose, paint_character, sample_character, sample_color
from training.gestures import move_with_speech, speech_gestures
from training.mouths import MouthCurve
from training.prompts import BACKGROUNDS, DAY, EXPRESSIONS, NIGHT, SHADED_IDLE, sample_prompt
from training.svg_scene import Backdrop, Light, draw_scene

_SUPERSAMPLING = 4
_EXPRESSION_FRAMES = 6
"""Frames over which the expressions named in the prompt fade in."""
COLLARS = ("round", "vee", "collar")

Drawing = Literal["flat", "shaded"]
"""Flat drawings by Pillow, which the shipped weights know, or shaded ones by resvg."""

SMALL = {"wide": (64, 128), "square": (96, 96), "upright": (128, 64)}
"""Frame heights and widths of the puppet model's buckets in size class 480."""
FULL = {"wide": (128, 256), "square": (192, 192), "upright": (256, 128)}
"""Those of the model's second edition."""
LARGE = {"wide": (96, 192), "square": (144, 144), "upright": (192, 96)}
"""Those in size class 720."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Position of a face and its motion: in pixels and radians, `blinks` are frame indices."""

    x: float
    y: float
    unit: float
    sway: tuple[float, float, float]
    """Amplitude in units of the face, frequency in Hz, phase; `tilt` likewise in radians."""
    tilt: tuple[float, float, float]
    blinks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Characters in front of a backdrop: everything except their mouths."""

    size: tuple[int, int]
    characters: tuple[Character, ...]
    placements: tuple[Placement, ...]
    backdrop: Backdrop
    prompt: str
    eyes_closed: bool
    brows_raised: bool
    drawing: Drawing = "flat"
    smiling: bool = False
    background: str = ""
    """Color that a prompt gives to the background."""
    night: tuple[float, float] = (0.0, 0.0)
    """Darkness of the image and, if a prompt changes it, of the video."""


def sample_scene(
    rng: np.random.Generator,
    persons: int,
    size: tuple[int, int],
    frames: int,
    split: str,
    drawing: Drawing = "flat",
) -> Scene:
    """Sample a scene; two persons are side by side, in an upright image one above the other."""
    eyes_closed, brows_raised = rng.random() < 0.3, rng.random() < 0.3
    shown = [phrase for phrase, is_shown in zip(EXPRESSIONS, (eyes_closed, brows_raised), strict=True) if is_shown]
    scene = Scene(
        size=size,
        characters=tuple(sample_character(rng, split) for _ in range(persons)),
        placements=tuple(_sample_placement(rng, i, persons, size, frames) for i in range(persons)),
        backdrop=Backdrop(
            kind=str(rng.choice(["plain", "gradient", "floor", "stripes", "window", "dots"])),
            colors=(sample_color(rng, split, 0.35, 0.8), sample_color(rng, split, 0.4, 0.7)),
            phase=rng.random(),
        ),
        prompt=sample_prompt(rng, persons, shown),
        eyes_closed=bool(eyes_closed),
        brows_raised=bool(brows_raised),
    )
    return scene if drawing == "flat" else _with_shading(rng, scene, shown)


def _with_shading(rng: np.random.Generator, scene: Scene, shown: list[str]) -> Scene:
    """The scene as a shaded drawing, with further words, more room for shoulders, and less motion left to chance."""
    smiling, background = rng.random() < 0.3, str(rng.choice(BACKGROUNDS)) if rng.random() < 0.3 else ""
    night, word = (((0.0, 0.0), ""), ((0.0, 1.0), NIGHT), ((1.0, 0.0), DAY), ((1.0, 1.0), ""))[
        rng.choice(4, p=(0.65, 0.15, 0.12, 0.08))
    ]
    phrases = [*shown, *(["smiling"] if smiling else []), *filter(None, (background, word))]
    characters = tuple(
        replace(person, collar=str(rng.choice(COLLARS)), brow_height=rng.uniform(0.07, 0.12), ears=True)
        for person in scene.characters
    )
    return replace(
        scene,
        drawing="shaded",
        characters=characters,
        placements=tuple(_with_shoulders(each) for each in scene.placements),
        prompt=sample_prompt(rng, len(characters), phrases, SHADED_IDLE),
        smiling=bool(smiling),
        background=background.partition(" ")[0],
        night=night,
    )


def _with_shoulders(placement: Placement) -> Placement:
    """A smaller face further up, which sways less: heads move with speech instead."""
    amplitude, frequency, phase = placement.sway
    tilt = (0.3 * placement.tilt[0], *placement.tilt[1:])
    unit = 0.88 * placement.unit
    return replace(
        placement, unit=unit, y=placement.y - 0.16 * unit, sway=(0.3 * amplitude, frequency, phase), tilt=tilt
    )


def _sample_placement(
    rng: np.random.Generator, index: int, persons: int, size: tuple[int, int], frames: int
) -> Placement:
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


def show_only(scene: Scene, phrase: str) -> Scene:
    """The scene as a prompt with one phrase changes it, or with none ("") by day."""
    return replace(
        scene,
        eyes_closed=phrase == "eyes closed",
        brows_raised=phrase == "eyebrows raised",
        smiling=phrase == "smiling",
        background=phrase.partition(" ")[0] if phrase in BACKGROUNDS else "",
        night={NIGHT: (0.0, 1.0), DAY: (1.0, 0.0)}.get(phrase, (0.0, 0.0)),
    )


def render(scene: Scene, openings: list[MouthCurve], shapes: list[MouthCurve], start: int = 0) -> NDArray[np.uint8]:
    """Frames of a scene from index `start`, F x H x W x 3, with one opening and one shape curve per person."""
    gestures = speech_gestures(openings, _side_of_second(scene)) if scene.drawing == "shaded" else None
    frames = []
    for f in range(len(openings[0])):
        poses = [_pose(scene, i, start + f, openings[i][f], shapes[i][f]) for i in range(len(openings))]
        if gestures is not None:
            poses = [move_with_speech(pose, gestures[i, f]) for i, pose in enumerate(poses)]
        frames.append(render_frame(scene, poses, start + f))
    return np.stack(frames)


def _side_of_second(scene: Scene) -> float:
    """Where the second person is, seen from the first: 1 on the right, -1 on the left, 0 below or nowhere."""
    if len(scene.placements) < 2 or scene.size[0] > scene.size[1]:
        return 0.0
    return float(np.sign(scene.placements[1].x - scene.placements[0].x))


def render_still(scene: Scene) -> NDArray[np.uint8]:
    """The first frame with closed mouths, H x W x 3, like the image of a request."""
    closed = [np.zeros(1)] * len(scene.characters)
    return render(scene, closed, closed)[0]


def render_frame(scene: Scene, poses: list[Pose], frame: int = 0) -> NDArray[np.uint8]:
    """Render one antialiased frame, H x W x 3; `frame` fades in what a prompt changes."""
    if scene.drawing == "shaded":
        share = min(1.0, frame / _EXPRESSION_FRAMES)
        return draw_scene(
            scene.size,
            scene.backdrop,
            list(zip(scene.characters, poses, strict=False)),
            Light(background=scene.background, strength=share, night=float(np.interp(share, (0, 1), scene.night))),
        )
    height, width = scene.size
    canvas = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    _paint_backdrop(draw, scene.backdrop, canvas.height, canvas.width)
    for person, pose in zip(scene.characters, poses, strict=True):
        scaled = pose._replace(x=pose.x * _SUPERSAMPLING, y=pose.y * _SUPERSAMPLING, unit=pose.unit * _SUPERSAMPLING)
        paint_character(draw, person, scaled)
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def face_boxes(scene: Scene) -> list[Box]:
    """The box of every face, hair and motion included, clipped to the image."""
    height, width = scene.size
    return [
        Box(
            top=max(0, int(placement.y - 1.15 * placement.unit)),
            left=max(0, int(placement.x - 1.0 * placement.unit)),
            bottom=min(height, int(np.ceil(placement.y + 1.1 * placement.unit))),
            right=min(width, int(np.ceil(placement.x + 1.0 * placement.unit))),
        )
        for placement in scene.placements
    ]


def _pose(scene: Scene, index: int, frame: int, opening: float, shape: float) -> Pose:
    placement = scene.placements[index]
    expression = min(1.0, frame / _EXPRESSION_FRAMES)
    eyes = min([1.0, *(abs(frame - blink) / 2.5 for blink in placement.blinks)])
    if scene.eyes_closed:
        eyes = min(eyes, 1 - expression)
    return Pose(
        x=placement.x + placement.unit * _oscillate(placement.sway, frame),
        y=placement.y + 0.5 * placement.unit * _oscillate(placement.sway, 1.7 * frame),
        unit=placement.unit,
        tilt=_oscillate(placement.tilt, frame),
        opening=float(opening),
        shape=float(shape),
        eyes=eyes,
        brows=expression if scene.brows_raised else 0.0,
        smile=expression if scene.smiling else 0.0,
    )


def _oscillate(motion: tuple[float, float, float], frame: float) -> float:
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
