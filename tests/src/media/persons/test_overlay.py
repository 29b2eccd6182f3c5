"""The overlay of person masks and names."""

import numpy as np
import pytest
from PIL import Image

from src.media.persons.overlay import COLORS, MIN_SIDE, draw_overlay

GRAY = (128, 128, 128)


@pytest.mark.parametrize("size", [(128, 64), (64, 128), (896, 448), (2560, 160)])
def test_masks_are_tinted_outlined_and_named(size: tuple[int, int]) -> None:
    width, height = size
    masks = [np.zeros((height // 8, width // 8), bool) for _ in range(2)]
    masks[0][:, : width // 24] = True
    masks[1][:, -(width // 24) :] = True
    frame = Image.new("RGB", size, GRAY)
    drawn = draw_overlay(frame, {"person 1": masks[0], "person 2": masks[1]})
    scale = drawn.width // width
    assert drawn.size == (width * scale, height * scale)
    assert min(drawn.size) >= MIN_SIDE > min(drawn.size) - min(size)
    for x, color in ((0, COLORS[0]), (drawn.width - 1, COLORS[1])):
        assert drawn.getpixel((x, drawn.height // 2)) == color
    assert drawn.getpixel((drawn.width // 2, drawn.height - 10)) == GRAY
    inside = np.array(drawn.getpixel((20, drawn.height - 20)))
    assert np.abs(inside - GRAY).max() > 20
    unnamed = draw_overlay(frame, {" ": masks[0], "  ": masks[1]})
    assert np.asarray(drawn).tobytes() != np.asarray(unnamed).tobytes()


def test_labels_do_not_overlap() -> None:
    everywhere = np.ones((56, 112), bool)
    drawn = np.asarray(draw_overlay(Image.new("RGB", (896, 448), GRAY), {"A": everywhere, "B": everywhere}))
    for color in COLORS[:2]:
        assert (drawn[2:-2, 2:-2] == color).all(axis=2).sum() > 200
