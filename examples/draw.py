"""Draws the example pictures: `python -m examples.draw` writes portrait.png and two_people.png beside this file.

The people are drawn as those that the built-in model has learnt from, but it has never seen them.
"""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from training.characters import Character
from training.scenes import Backdrop, Placement, Scene, draw_still

ANNA = Character(
    width=0.83,
    power=2.3,
    skin=(240, 198, 168),
    hair="long",
    hair_colour=(104, 56, 36),
    hat="none",
    hat_colour=(0, 0, 0),
    glasses="none",
    shirt=(206, 92, 84),
    iris=(86, 122, 74),
    lips=(206, 103, 87),
    eye_apart=0.37,
    eye_size=0.16,
    nose=0.08,
    mouth_width=0.4,
    mouth_y=0.51,
    ears=False,
)
BEN = replace(
    ANNA,
    width=0.81,
    power=2.45,
    skin=(214, 160, 116),
    hair="short",
    hair_colour=(52, 40, 36),
    glasses="round",
    shirt=(72, 116, 160),
    iris=(80, 50, 30),
    lips=(184, 83, 60),
    ears=True,
)
ROOM = Backdrop(kind="gradient", colours=((196, 214, 222), (150, 176, 190)), phase=0.5)


def stand(x: float, y: float, unit: float) -> Placement:
    """Somebody at rest: middle of the face and half its height, in pixels."""
    return Placement(x=x, y=y, unit=unit, sway=(0, 0, 0), tilt=(0, 0, 0), blinks=())


def scene_of(size: tuple[int, int], people: tuple[Character, ...], places: tuple[Placement, ...]) -> Scene:
    """People who stand still in a room."""
    return Scene(
        size=size,
        people=people,
        placements=places,
        backdrop=ROOM,
        prompt="",
        eyes_closed=False,
        brows_raised=False,
    )


PICTURES = {
    "portrait.png": scene_of((768, 768), (ANNA,), (stand(384, 380, 250),)),
    "two_people.png": scene_of((512, 1024), (ANNA, BEN), (stand(262, 262, 172), stand(764, 250, 172))),
}


def main() -> None:
    """Write both pictures."""
    for name, scene in PICTURES.items():
        Image.fromarray(draw_still(scene)).save(Path(__file__).parent / name, optimize=True)


if __name__ == "__main__":
    main()
