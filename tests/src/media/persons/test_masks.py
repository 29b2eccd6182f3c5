"""Boxes and mask images of any number of persons, for the two that the model supports."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.errors import InputError
from src.media.persons.masks import MAX_PERSONS, PersonMasks, person_masks

WIDTH, HEIGHT = 80, 40
SIDES = {"a": (0, 20), "b": (20, 40), "c": (35, 60), "d": (60, 80)}


def box(name: str) -> str:
    left, right = SIDES[name]
    return f"{left},0,{right},{HEIGHT}"


def mask(folder: Path, name: str, scale: float = 1) -> Path:
    left, right = SIDES[name]
    image = Image.new("L", (WIDTH, HEIGHT))
    image.paste(255, (left, 0, right, HEIGHT))
    path = folder / f"{name}.png"
    image.resize((round(WIDTH * scale), round(HEIGHT * scale)), Image.Resampling.NEAREST).save(path)
    return path


def columns(masks: PersonMasks | None) -> tuple[set[int], set[int]]:
    """The columns of both masks, whose rows are all equal."""
    assert masks is not None
    for mask_HW in masks:
        assert mask_HW.shape == (HEIGHT, WIDTH)
        assert (mask_HW == mask_HW[:1]).all()
    first, second = (set(np.flatnonzero(mask_HW[0]).tolist()) for mask_HW in masks)
    return first, second


def between(*names: str) -> set[int]:
    return {column for name in names for column in range(*SIDES[name])}


@pytest.mark.parametrize(
    ("names", "voices", "first", "second"),
    [
        ("a", 1, between("a"), between("b", "c", "d")),
        ("ad", 1, between("a"), between("d")),
        ("abd", 1, between("a"), between("b", "d")),
        ("ab", 2, between("a"), between("b")),
        ("bc", 2, between("b"), between("c")),
        ("ba", 2, between("b"), between("a")),
        ("abc", 2, between("a"), between("b") - between("c")),
        ("bdac", 2, between("b") - between("c"), between("d")),
    ],
)
@pytest.mark.parametrize("drawn", [False, True])
def test_masks_of_both_persons(
    tmp_path: Path, names: str, voices: int, first: set[int], second: set[int], drawn: bool
) -> None:
    boxes = None if drawn else ";".join(map(box, names))
    masks = [mask(tmp_path, name) for name in names] if drawn else []
    assert columns(person_masks(boxes, masks, width=WIDTH, height=HEIGHT, num_voices=voices)) == (first, second)


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_mask_may_have_another_size(tmp_path: Path, scale: float) -> None:
    masks = [mask(tmp_path, name, scale) for name in "ad"]
    assert columns(person_masks(None, masks, width=WIDTH, height=HEIGHT, num_voices=2)) == (between("a"), between("d"))


def test_transparent_pixels_are_not_part_of_a_mask(tmp_path: Path) -> None:
    cutout = Image.new("RGBA", (WIDTH, HEIGHT), (255, 255, 255, 0))
    cutout.paste((255, 255, 255, 255), (0, 0, 20, HEIGHT))
    cutout.save(tmp_path / "cutout.png")
    masks = person_masks(None, [tmp_path / "cutout.png"], width=WIDTH, height=HEIGHT, num_voices=1)
    assert columns(masks)[0] == between("a")


@pytest.mark.parametrize("boxes", [None, "", "  \n"])
def test_no_boxes_and_no_masks(boxes: str | None) -> None:
    assert person_masks(boxes, [], width=WIDTH, height=HEIGHT, num_voices=2) is None


@pytest.mark.parametrize("voices", [1, 2])
@pytest.mark.parametrize("drawn", [False, True])
def test_allowed_numbers_of_persons(tmp_path: Path, voices: int, drawn: bool) -> None:
    name = "person_masks" if drawn else "person_boxes"
    for count in (voices - 1, voices, MAX_PERSONS, MAX_PERSONS + 1):
        boxes = None if drawn else ";".join([box("a")] * count)
        masks = [mask(tmp_path, "a")] * count if drawn else []
        if voices <= count <= MAX_PERSONS or not count:
            person_masks(boxes, masks, width=WIDTH, height=HEIGHT, num_voices=voices)
        else:
            with pytest.raises(InputError, match=f"{name} .*{count} with first_audio.*{MAX_PERSONS} are allowed"):
                person_masks(boxes, masks, width=WIDTH, height=HEIGHT, num_voices=voices)


def test_boxes_and_masks_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"person_boxes is '0,0,20,40', and person_masks has 1; only one"):
        person_masks(box("a"), [mask(tmp_path, "a")], width=WIDTH, height=HEIGHT, num_voices=1)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("L", (WIDTH, HEIGHT)), "has no white pixel"),
        (Image.new("L", (WIDTH, HEIGHT), 100), "has no white pixel"),
        (Image.new("L", (WIDTH, 60), 255), f"has 80 x 60 pixels; the image's {WIDTH} x {HEIGHT} are needed"),
        (Image.new("L", (HEIGHT, WIDTH), 255), "has 40 x 80 pixels"),
        (Image.new("L", (8, 4), 255), "has 8 x 4 pixels; each side needs at least 32"),
    ],
)
def test_unusable_masks_are_refused(tmp_path: Path, image: Image.Image, words: str) -> None:
    image.save(tmp_path / "mask.png")
    masks = [mask(tmp_path, "a"), tmp_path / "mask.png"]
    with pytest.raises(InputError, match=rf"person_masks \(number 2\) {words}"):
        person_masks(None, masks, width=WIDTH, height=HEIGHT, num_voices=2)
