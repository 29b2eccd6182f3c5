"""Masks of persons: from the picture to the latent grid."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from wan.conditioning.image import nearest_bucket, plan_crop
from wan.conditioning.layout import layout_image
from wan.conditioning.speakers import BoxRegion, MaskRegion, SpeakerError, half_boxes, latent_masks

BUCKETS = {"0.50": (64, 128), "1.00": (96, 96)}
LEFT = BoxRegion(top=0, left=0, bottom=200, right=150)
RIGHT = BoxRegion(top=0, left=250, bottom=200, right=400)


def test_halves_have_a_margin_of_five_percent() -> None:
    assert half_boxes(100, 200) == (
        BoxRegion(top=5, left=5, bottom=95, right=95),
        BoxRegion(top=5, left=105, bottom=95, right=195),
    )


@pytest.mark.parametrize("size", [(200, 400), (333, 777), (97, 1000), (1440, 2560)])
@pytest.mark.parametrize("boxed", [True, False])
def test_masks_are_those_of_the_picture_scaled_cropped_and_resized(size: tuple[int, int], boxed: bool) -> None:
    height, width = size
    left, right = half_boxes(height, width)
    boxes = (replace(left, top=height // 3), replace(right, right=width)) if boxed else None
    masks = torch.zeros(3, height, width)
    for mask, box in zip(masks, boxes or (left, right), strict=False):
        mask[box.top : box.bottom, box.left : box.right] = 1
    masks[2] = 1 - masks[:2].amax(0)
    crop = plan_crop(height, width, nearest_bucket(height, width, BUCKETS))
    scaled = F.interpolate(masks[None], crop.scaled, mode="nearest")[0]
    cropped = scaled[:, crop.top : crop.top + crop.size[0], crop.left : crop.left + crop.size[1]]
    expected = F.interpolate(cropped[None], [side // 8 for side in crop.size], mode="nearest")[0]
    assert torch.equal(latent_masks(height, width, boxes, crop), expected)


def test_masks_cover_the_latent_grid() -> None:
    framing = layout_image(200, 400, BUCKETS, 2, (LEFT, RIGHT))
    assert framing.masks.shape == (3, 8, 16)
    assert (framing.masks.amax(0) == 1).all()


def test_two_persons_may_fill_the_picture() -> None:
    masks = layout_image(200, 400, BUCKETS, 2, (replace(LEFT, right=200), replace(RIGHT, left=200))).masks
    assert torch.equal(masks.sum((1, 2)), torch.tensor([64.0, 64.0, 0.0]))


@pytest.mark.parametrize("size", [(200, 400), (333, 777), (97, 1000)])
def test_a_mask_of_a_box_is_the_box(size: tuple[int, int]) -> None:
    boxes = half_boxes(*size)
    stencils = []
    for box in boxes:
        pixels_HW = torch.zeros(size, dtype=torch.bool)
        pixels_HW[box.top : box.bottom, box.left : box.right] = True
        stencils.append(MaskRegion(pixels_HW=pixels_HW))
    drawn = layout_image(*size, BUCKETS, 2, (stencils[0], stencils[1]))
    assert torch.equal(drawn.masks, layout_image(*size, BUCKETS, 2, boxes).masks)


def test_one_person_has_the_whole_picture() -> None:
    assert (layout_image(200, 400, BUCKETS, 1, None).masks == 1).all()


@pytest.mark.parametrize(
    ("boxes", "who"),
    [
        ((BoxRegion(top=3, left=3, bottom=6, right=6), RIGHT), "person 1"),
        ((LEFT, BoxRegion(top=0, left=399, bottom=200, right=400)), "person 2"),
    ],
)
def test_nobody_may_vanish(boxes: tuple[BoxRegion, BoxRegion], who: str) -> None:
    with pytest.raises(SpeakerError, match=f"nothing of {who}") as caught:
        layout_image(200, 400, BUCKETS, 2, boxes)
    assert f"rows {boxes[0].top} to {boxes[0].bottom}" in str(caught.value)


def test_a_person_cropped_away_is_an_error() -> None:
    outside = BoxRegion(top=0, left=0, bottom=100, right=40)
    inside = BoxRegion(top=20, left=450, bottom=80, right=520)
    with pytest.raises(SpeakerError, match="person 1"):
        layout_image(100, 1000, BUCKETS, 2, (outside, inside))
