"""Masks of persons: from the picture to the latent grid."""

import pytest
import torch

from wan.conditioning.framing import frame_picture
from wan.conditioning.speakers import Box, SpeakerError, picture_masks

BUCKETS = {"0.50": (64, 128), "1.00": (96, 96)}
LEFT = Box(top=0, left=0, bottom=200, right=150)
RIGHT = Box(top=0, left=250, bottom=200, right=400)


def test_halves_have_a_margin_of_five_percent() -> None:
    one, two, background = picture_masks(100, 200, None)
    assert one.nonzero().amin(0).tolist() == [5, 5]
    assert one.nonzero().amax(0).tolist() == [94, 94]
    assert torch.equal(two[:, 100:], one[:, :100])
    assert torch.equal(background, 1 - one - two)


def test_boxes_are_half_open() -> None:
    one = picture_masks(200, 400, (LEFT, RIGHT))[0]
    assert one.sum() == 200 * 150


def test_masks_cover_the_latent_grid() -> None:
    framing = frame_picture(200, 400, BUCKETS, 2, (LEFT, RIGHT))
    assert framing.masks.shape == (3, 8, 16)
    assert (framing.masks.amax(0) == 1).all()


def test_one_person_has_the_whole_picture() -> None:
    assert (frame_picture(200, 400, BUCKETS, 1, None).masks == 1).all()


@pytest.mark.parametrize(
    ("boxes", "who"),
    [
        ((Box(top=3, left=3, bottom=6, right=6), RIGHT), "person 1"),
        ((LEFT, Box(top=0, left=399, bottom=200, right=400)), "person 2"),
        ((Box(top=0, left=0, bottom=200, right=200), Box(top=0, left=200, bottom=200, right=400)), "the background"),
    ],
)
def test_nobody_may_vanish(boxes: tuple[Box, Box], who: str) -> None:
    with pytest.raises(SpeakerError, match=f"nothing of {who}") as caught:
        frame_picture(200, 400, BUCKETS, 2, boxes)
    assert f"rows {boxes[0].top} to {boxes[0].bottom}" in str(caught.value)


def test_a_person_cropped_away_is_an_error() -> None:
    outside = Box(top=0, left=0, bottom=100, right=40)
    inside = Box(top=20, left=450, bottom=80, right=520)
    with pytest.raises(SpeakerError, match="person 1"):
        frame_picture(100, 1000, BUCKETS, 2, (outside, inside))
