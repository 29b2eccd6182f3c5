"""`python -m examples.draw`: render the example images, masks and video into this folder, or another one.

The characters are rendered like the training data of the built-in model, but are not part of it.
"""

from collections.abc import Sequence

from examples.arguments import folder_parser
from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    return folder_parser("-m examples.draw", __doc__)


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("examples.draw", make_parser)

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from src.media.video.writer import VideoWriter
from training.characters import Character
from training.scenes import Placement, Scene, face_boxes, render, render_still
from training.svg_scene import Backdrop

ANNA = Character(
    width=0.83,
    exponent=2.3,
    skin=(240, 198, 168),
    hair="long",
    hair_color=(104, 56, 36),
    hat="none",
    hat_color=(0, 0, 0),
    glasses="none",
    shirt=(206, 92, 84),
    iris=(86, 122, 74),
    lips=(206, 103, 87),
    eye_offset=0.37,
    eye_size=0.16,
    nose=0.08,
    mouth_width=0.4,
    mouth_y=0.51,
    ears=False,
)
BEN = replace(
    ANNA,
    width=0.81,
    exponent=2.45,
    skin=(214, 160, 116),
    hair="short",
    hair_color=(52, 40, 36),
    glasses="round",
    shirt=(72, 116, 160),
    iris=(80, 50, 30),
    lips=(184, 83, 60),
    ears=True,
)
ROOM = Backdrop(kind="gradient", colors=((196, 214, 222), (150, 176, 190)), phase=0.5)
GARDEN = Backdrop(kind="floor", colors=((214, 226, 200), (120, 150, 96)), phase=0.6)


def stand(x: float, y: float, unit: float) -> Placement:
    """A character at rest: center of the face and half its height, in pixels."""
    return Placement(x=x, y=y, unit=unit, sway=(0, 0, 0), tilt=(0, 0, 0), blinks=())


def sway(placement: Placement, phase: float) -> Placement:
    """A character that moves the head a little and blinks about once a second."""
    return replace(placement, sway=(0.05, 0.4, phase), tilt=(0.05, 0.3, phase), blinks=(20, 45, 70))


def make_scene(
    size: tuple[int, int],
    characters: tuple[Character, ...],
    placements: tuple[Placement, ...],
    backdrop: Backdrop = ROOM,
) -> Scene:
    """Characters with closed mouths."""
    return Scene(
        size=size,
        characters=characters,
        placements=placements,
        backdrop=backdrop,
        prompt="",
        eyes_closed=False,
        brows_raised=False,
    )


IMAGES = {
    "portrait.png": make_scene((768, 768), (ANNA,), (stand(384, 380, 250),)),
    "two_people.png": make_scene((512, 1024), (ANNA, BEN), (stand(262, 262, 172), stand(764, 250, 172))),
}
MASKS = {"mask_anna.png": 0, "mask_ben.png": 1}
VIDEO = (
    (make_scene((256, 512), (ANNA, BEN), (sway(stand(131, 131, 84), 0), sway(stand(382, 125, 84), 2))), 50),
    (make_scene((256, 512), (ANNA, BEN), (sway(stand(140, 128, 76), 1), sway(stand(372, 130, 76), 3)), GARDEN), 25),
)
"""Scenes and their lengths in frames."""


def draw_mask(scene: Scene, person: int) -> Image.Image:
    """A white ellipse over a person's face."""
    box = face_boxes(scene)[person]
    mask = Image.new("1", scene.size[::-1])
    ImageDraw.Draw(mask).ellipse((box.left, box.top, box.right, box.bottom), fill=1)
    return mask


def write_video(path: Path) -> None:
    """The scenes one after the other, without audio."""
    height, width = VIDEO[0][0].size
    with VideoWriter(path, width=width, height=height, num_frames=sum(length for _, length in VIDEO)) as writer:
        for scene, length in VIDEO:
            closed = [np.zeros(length)] * len(scene.characters)
            writer.write(render(scene, closed, closed))


def main(argv: Sequence[str] | None = None) -> None:
    """Write all files."""
    folder = make_parser().parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in IMAGES.items():
        Image.fromarray(render_still(scene)).save(folder / name, optimize=True)
    for name, person in MASKS.items():
        draw_mask(IMAGES["two_people.png"], person).save(folder / name, optimize=True)
    write_video(folder / "two_scenes.mp4")
