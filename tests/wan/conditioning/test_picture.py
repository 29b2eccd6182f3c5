"""Buckets and crops."""

import pytest
import torch
from PIL import Image

from wan.conditioning.picture import crop_picture, nearest_bucket, plan_crop
from wan.configs import WAN_CONFIGS
from wan.types import PIXELS_PER_TOKEN

TABLES = [table for config in WAN_CONFIGS.values() for table in config.buckets.values()]


@pytest.mark.parametrize("table", TABLES)
def test_buckets_fit_the_token_grid_and_their_names(table: dict[str, tuple[int, int]]) -> None:
    for ratio, (height, width) in table.items():
        assert height % PIXELS_PER_TOKEN == width % PIXELS_PER_TOKEN == 0
        assert abs(height / width - float(ratio)) < 0.06


def test_published_buckets_have_the_known_token_counts() -> None:
    tables = WAN_CONFIGS["multitalk-14B"].buckets
    counts = {name: {h * w // 256 for h, w in table.values()} for name, table in tables.items()}
    assert (len(counts["480"]), len(counts["720"])) == (8, 11)


def test_the_first_bucket_wins_a_tie() -> None:
    assert nearest_bucket(150, 200, {"0.50": (1, 2), "1.00": (3, 4)}) == (1, 2)


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (32, 3000), (3000, 32), (640, 640), (333, 777)])
def test_the_crop_covers_the_bucket(size: tuple[int, int]) -> None:
    for table in TABLES:
        crop = plan_crop(*size, nearest_bucket(*size, table))
        for scaled, kept, first in zip(crop.scaled, crop.size, (crop.top, crop.left), strict=True):
            assert 0 <= first <= scaled - kept


def test_the_picture_is_in_range_and_centred() -> None:
    picture = Image.new("RGB", (300, 100))
    picture.paste((255, 255, 255), (100, 0, 200, 100))
    frame = crop_picture(picture, plan_crop(100, 300, (64, 64)))
    assert frame.shape == (3, 64, 64)
    assert (frame[..., 1:-1] == 1).all()
    assert torch.equal(frame, frame.flip(-1))
