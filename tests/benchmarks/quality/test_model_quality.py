"""Lip sync, conditioning and seams of the trained built-in model on a few clips; `make bench-lips` measures many."""

import pytest

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality import seams
from benchmarks.quality.clips import ROWS, Row
from benchmarks.quality.conditioning_ablation import ablate_conditioning, measure_prompts
from benchmarks.quality.lipsync import measure_row

pytestmark = pytest.mark.soak  # minutes of sampling
ROW_NAMES = ("one", "two add", "two para", "two add, swapped", "two para upright, boxes", "two para, 5 chunks")
SEED = 7


@pytest.fixture(scope="module")
def puppet() -> Puppet:
    puppet = Puppet()
    puppet.set_preset_lora("fast")
    return puppet


def test_faces_last_with_the_conditioning_of_infinitetalk() -> None:
    puppet = Puppet(model="infinitetalk-puppet")
    puppet.set_preset_lora("fast")
    (row,) = (row for row in ROWS if row.name == "InfiniteTalk, two para, 20 chunks")
    metrics = measure_row(puppet, puppet.options(), row, 2, SEED)["model"]
    assert [metrics["faces"][count]["lost"] for count in ("5", "10", "20")] == [0, 0, 0]
    assert metrics["sharpness"] >= 0.9


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in ROW_NAMES], ids=lambda row: row.name)
def test_lips_follow_their_own_voice(puppet: Puppet, row: Row) -> None:
    metrics = measure_row(puppet, puppet.options(), row, 3 if row.num_chunks == 1 else 1, SEED)["model"]
    assert metrics["own"] >= 0.8
    assert abs(metrics["lag"]) <= 1
    assert metrics.get("own_last_chunk", 1) >= 0.8


def test_silent_mouths_are_still(puppet: Puppet) -> None:
    row = next(row for row in ROWS if row.audio == "none")
    metrics = measure_row(puppet, puppet.options(), row, 2, SEED)["model"]
    assert metrics["silent_mean"] <= 0.08
    assert metrics["silent_std"] <= 0.08


def test_every_condition_has_an_effect(puppet: Puppet) -> None:
    effects = ablate_conditioning(puppet, puppet.options(), clips=2, seed=SEED)
    assert effects["nothing"]["relative_change"] == 0
    assert all(effects[name]["relative_change"] > 0.02 for name in ("prompt", "image tokens", "audio"))
    assert effects["audio"]["own"] < effects["nothing"]["own"] / 2


def test_prompt_closes_the_eyes(puppet: Puppet) -> None:
    whiteness = measure_prompts(puppet, puppet.options(), clips=2, seed=SEED)["eyes closed"]["model"]
    assert whiteness["eyes closed"] < whiteness["neutral"] / 2


def test_seams_are_not_noticeable(puppet: Puppet) -> None:
    assert seams.over_limit(seams.measure(puppet, puppet.options("fast"), clips=1, seed=0)) == []
