"""Nothing tells where one chunk ends and the next begins; and what is measured would tell."""

import numpy as np
import pytest

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.seams import ROW, Watched, beyond, compared, measure, seams
from wan.chunks import plan_chunks

FRAMES = ROW.frames - 1


def drawn(seed: int = 0) -> Watched:
    """A mouth that follows its voice nearly, and colours that change a little; no seams."""
    rng = np.random.default_rng(seed)
    voice = np.convolve(rng.random(FRAMES + 4), np.ones(5) / 5, mode="valid")
    return Watched(
        mouth=voice + 0.02 * rng.standard_normal(FRAMES),
        voice=voice,
        color=2 + 0.1 * rng.standard_normal(FRAMES),
        step=0.3 * rng.random(FRAMES // 4),
    )


def test_seams_are_where_chunks_begin() -> None:
    chunks = plan_chunks(ROW.frames, 33, 9)
    assert len(chunks) == 10
    assert list(seams(FRAMES) + 1) == [chunk.start + chunk.overlap for chunk in chunks[1:]]


def test_without_seams_nothing_is_found() -> None:
    figures = compared([drawn(0), drawn(1)])
    assert beyond(figures) == []
    assert all(abs(each["deviations"]) < 3 for each in figures.values())


@pytest.mark.parametrize("name", ["correlation", "distance", "colour", "step"])
def test_a_seam_is_found(name: str) -> None:
    video = drawn()
    for place in seams(FRAMES):
        around = slice(place - 2, place + 2)
        if name == "correlation":
            video.mouth[around] = 1 - video.mouth[around]
        elif name == "distance":
            video.mouth[around] += 0.3
        elif name == "colour":
            video.color[around] += 0.5
        else:
            video.step[place // 4] += 1
    assert name in beyond(compared([video]))


def test_lips_and_colors_at_seams_are_those_elsewhere() -> None:
    """Ten chunks of the trained model; `python -m benchmarks.quality.seams` makes more of them."""
    puppet = Puppet()
    puppet.use_lora_of("fast")
    figures = measure(puppet, puppet.options("fast"), clips=1, seed=0)
    assert beyond(figures) == []
    assert figures["correlation"]["at_seams"] > 0.8
