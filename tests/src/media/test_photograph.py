"""Photographs are told from drawings; false on everything that examples/ holds and training draws."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFilter

from src.media.photograph import is_photograph
from tests.conftest import ROOT
from training.scenes import render_still, sample_scene

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=quality)
    return Image.open(data)


@pytest.mark.parametrize("name", ["portrait.png", "two_people.png", "mask_anna.png"])
def test_examples_are_drawings(name: str) -> None:
    image = Image.open(ROOT / "examples" / name)
    assert not is_photograph(image)
    assert not is_photograph(jpeg(image, 50))
    assert not is_photograph(image.resize((300, 200)))
    assert not is_photograph(image.convert("L"))


def test_training_images_are_drawings() -> None:
    rng = np.random.default_rng(3)
    for persons in (1, 2, 1, 2):
        image = Image.fromarray(render_still(sample_scene(rng, persons, (256, 256 * persons), 1, "train")))
        assert not is_photograph(image)
        assert not is_photograph(jpeg(image, 70))


def test_photograph_in_color_gray_blurred_and_compressed() -> None:
    image = Image.open(PHOTOGRAPH)
    assert is_photograph(image)
    assert is_photograph(image.convert("L"))
    assert is_photograph(image.resize((2000, 2400)))
    assert is_photograph(image.filter(ImageFilter.GaussianBlur(4)))
    assert is_photograph(jpeg(image, 40))


def test_a_tiny_image_is_not_judged() -> None:
    assert not is_photograph(Image.new("RGB", (1, 1)))
