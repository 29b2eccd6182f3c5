"""The command that plans for a machine before anything is downloaded."""

import pytest

from app import plan
from app.cards import CARDS, reference_card
from app.prediction import GB, Recipe, predict

SMALL = Recipe(gpu=24 * GB, ram=32 * GB, precision="fp8")


def test_prediction_of_a_24_gb_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--gpu", "24", "--ram", "64", "--dtype", "fp8"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("multitalk-14B, fp8, 480p, 448 x 896, 1 person\n\nplan         streamed")
    assert "RTX 4090" in text
    assert "does not fit" not in text


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--gpu", "8", "--ram", "16"]) == 1
    text = capsys.readouterr().out
    assert "does not fit: GPU memory: 7.5 GB of the device's memory are free; the smallest plan" in text
    assert "does not fit: host memory: " in text


def test_predictions_follow_the_card() -> None:
    small, large = predict(SMALL), predict(Recipe(gpu=80 * GB, ram=64 * GB, precision="fp8"))
    assert small.plan
    assert large.plan
    assert large.plan.name == "resident"
    assert large.host < small.host
    assert large.lora_originals == 0
    assert large.seconds < small.seconds
    assert max(small.stage_peaks.values()) == small.plan.peak
    assert large.converted < large.download


@pytest.mark.parametrize(("gigabytes", "name"), [(8, "RTX 4080"), (24, "RTX 4090"), (40, "RTX 4090"), (141, "H100")])
def test_reference_card_is_the_largest_that_is_no_larger(gigabytes: int, name: str) -> None:
    assert reference_card(gigabytes * GB).name == name
    assert [card.memory for card in CARDS] == sorted(card.memory for card in CARDS)
