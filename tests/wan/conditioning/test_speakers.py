"""Person masks on the latent grid."""

import pytest
import torch
import torch.nn.functional as F

from wan.conditioning.image import nearest_bucket, plan_crop
from wan.conditioning.layout import layout_image
from wan.conditioning.speakers import PersonMasks, SpeakerError, box_mask, half_masks, latent_masks

BUCKETS = {"0.50": (64, 128), "1.00": (96, 96)}
LEFT = box_mask(200, 400, top=0, left=0, bottom=200, right=150)
RIGHT = box_mask(200, 400, top=0, left=250, bottom=200, right=400)


def test_half_masks_have_a_margin_of_five_percent() -> None:
    left, right = half_masks(100, 200)
    assert torch.equal(left, box_mask(100, 200, top=5, left=5, bottom=95, right=95))
    assert torch.equal(right, box_mask(100, 200, top=5, left=105, bottom=95, right=195))


@pytest.mark.parametrize("size", [(200, 400), (333, 777), (97, 1000), (1440, 2560)])
@pytest.mark.parametrize("has_boxes", [True, False])
def test_masks_equal_nearest_scaling_cropping_and_resizing(size: tuple[int, int], has_boxes: bool) -> None:
    height, width = size
    boxes = None
    if has_boxes:
        left = box_mask(height, width, top=height // 3, left=3, bottom=height - 5, right=width // 2 - 7)
        boxes = (left, box_mask(height, width, top=5, left=width // 2 + 1, bottom=height, right=width))
    masks = torch.zeros(3, height, width)
    masks[:2] = torch.stack(boxes or half_masks(height, width))
    masks[2] = 1 - masks[:2].amax(0)
    crop = plan_crop(height, width, nearest_bucket(height, width, BUCKETS))
    scaled = F.interpolate(masks[None], crop.scaled, mode="nearest")[0]
    cropped = scaled[:, crop.top : crop.top + crop.size[0], crop.left : crop.left + crop.size[1]]
    expected = F.interpolate(cropped[None], [side // 8 for side in crop.size], mode="nearest")[0]
    assert torch.equal(latent_masks(height, width, boxes, crop), expected)


def test_every_latent_sample_has_a_class() -> None:
    masks = layout_image(200, 400, BUCKETS, 2, (LEFT, RIGHT)).masks
    assert masks.shape == (3, 8, 16)
    assert (masks.amax(0) == 1).all()


def test_background_may_be_empty() -> None:
    left = box_mask(200, 400, top=0, left=0, bottom=200, right=200)
    masks = layout_image(200, 400, BUCKETS, 2, (left, ~left)).masks
    assert torch.equal(masks.sum((1, 2)), torch.tensor([64.0, 64.0, 0.0]))


def test_masks_of_one_person_are_ones() -> None:
    assert (layout_image(200, 400, BUCKETS, 1, None).masks == 1).all()


@pytest.mark.parametrize(
    ("masks", "person", "description"),
    [
        ((box_mask(200, 400, top=3, left=3, bottom=6, right=6), RIGHT), "person 1", "rows 3 to 6, columns 3 to 6; "),
        ((LEFT, box_mask(200, 400, top=0, left=399, bottom=200, right=400)), "person 2", "rows 0 to 200, columns 399"),
        ((LEFT, torch.zeros(200, 400, dtype=torch.bool)), "person 2", "a mask of 0 pixels"),
        (
            (torch.eye(200, 400).bool() & box_mask(200, 400, top=1, left=1, bottom=4, right=4), RIGHT),
            "person 1",
            "a mask of 3 pixels",
        ),
    ],
)
def test_person_without_a_token_is_an_error(masks: PersonMasks, person: str, description: str) -> None:
    with pytest.raises(SpeakerError, match=f"nothing of {person}") as caught:
        layout_image(200, 400, BUCKETS, 2, masks)
    assert description in str(caught.value)


def test_the_same_area_for_both_is_an_error_and_an_overlap_is_not() -> None:
    whole = torch.ones(200, 400, dtype=torch.bool)
    with pytest.raises(SpeakerError, match="both persons cover the same area"):
        layout_image(200, 400, BUCKETS, 2, (whole, whole.clone()))
    masks = layout_image(200, 400, BUCKETS, 2, (whole, RIGHT)).masks
    assert masks[0].min() == 1
    assert 0 < masks[1].sum() < masks[0].sum()
    assert masks[2].sum() == 0


def test_person_outside_the_crop_is_an_error() -> None:
    outside = box_mask(100, 1000, top=0, left=0, bottom=100, right=40)
    inside = box_mask(100, 1000, top=20, left=450, bottom=80, right=520)
    with pytest.raises(SpeakerError, match="person 1"):
        layout_image(100, 1000, BUCKETS, 2, (outside, inside))
