"""Buckets, sizes and crops."""

import pytest
import torch
from PIL import Image

from wan.conditioning.image import MAX_CROP, choose_size, crop_image, nearest_bucket, plan_crop
from wan.configs import WAN_CONFIGS
from wan.types import PIXELS_PER_TOKEN

TABLES = [table for config in WAN_CONFIGS.values() for table in config.buckets.values()]


@pytest.mark.parametrize("table", TABLES)
def test_bucket_sizes_are_whole_tokens_and_match_their_ratio(table: dict[str, tuple[int, int]]) -> None:
    for ratio, (height, width) in table.items():
        assert height % PIXELS_PER_TOKEN == width % PIXELS_PER_TOKEN == 0
        assert abs(height / width - float(ratio)) < 0.06


def test_published_buckets_have_the_published_token_counts() -> None:
    tables = WAN_CONFIGS["multitalk-14B"].buckets
    counts = {name: {h * w // 256 for h, w in table.values()} for name, table in tables.items()}
    assert (len(counts["480"]), len(counts["720"])) == (8, 11)


def test_first_bucket_wins_a_tie() -> None:
    assert nearest_bucket(150, 200, {"0.50": (1, 2), "1.00": (3, 4)}) == (1, 2)


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (32, 3000), (3000, 32), (640, 640), (333, 777)])
def test_crop_lies_within_the_scaled_image(size: tuple[int, int]) -> None:
    for table in TABLES:
        crop = plan_crop(*size, nearest_bucket(*size, table))
        for scaled, kept, first in zip(crop.scaled, crop.size, (crop.top, crop.left), strict=True):
            assert 0 <= first <= scaled - kept


def test_cropped_image_is_in_range_and_centered() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (100, 0, 200, 100))
    frame = crop_image(image, plan_crop(100, 300, (64, 64)))
    assert frame.shape == (3, 64, 64)
    assert (frame[..., 1:-1] == 1).all()
    assert torch.equal(frame, frame.flip(-1))


SHAPES = {"16:9": (1080, 1920), "9:16": (1920, 1080), "4:3": (1200, 1600), "21:9": (1080, 2520), "1:1": (1000, 1000)}
SOURCE_SIZES = {
    "480": {"16:9": (432, 768), "9:16": (768, 432), "4:3": (528, 704), "21:9": (384, 896), "1:1": (640, 640)},
    "720": {"16:9": (720, 1280), "9:16": (1280, 720), "4:3": (816, 1088), "21:9": (624, 1456), "1:1": (976, 976)},
}


@pytest.mark.parametrize("size_class", SOURCE_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_source_aspect_sizes(size_class: str, shape: str) -> None:
    table = WAN_CONFIGS["multitalk-14B"].buckets[size_class]
    assert choose_size(*SHAPES[shape], table, "source") == SOURCE_SIZES[size_class][shape]


@pytest.mark.parametrize("table", TABLES)
def test_source_aspect_crops_little(table: dict[str, tuple[int, int]]) -> None:
    """Within the budget, in whole tokens, for aspect ratios up to 16 to 1."""
    budget = max(height * width for height, width in table.values())
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(32, 5000, (200, 2), generator=generator).tolist()
    for height, width in [*SHAPES.values(), (32, 512), (512, 32), *sizes]:
        if max(height, width) > 16 * min(height, width):
            continue
        crop = plan_crop(height, width, choose_size(height, width, table, "source"))
        assert crop.size[0] * crop.size[1] <= budget
        assert crop.size[0] % PIXELS_PER_TOKEN == crop.size[1] % PIXELS_PER_TOKEN == 0
        assert all(0 <= scaled - kept <= MAX_CROP for scaled, kept in zip(crop.scaled, crop.size, strict=True))
