"""Inputs that come by another way than Cog's server."""

from typing import Any

import pytest

from src.serving.cog.schema import openapi
from src.serving.validation import ValidationError, validate
from tests.conftest import ROOT

DOCUMENT = openapi((ROOT / "predict.py").read_text(encoding="utf-8"))
FILES = {"image": "a.png", "first_audio": "1.wav"}


def test_defaults_and_types() -> None:
    values = validate({**FILES, "seed": 3.0, "text_guidance": 2, "num_frames": None}, DOCUMENT)
    assert list(values) == list(DOCUMENT["components"]["schemas"]["Input"]["properties"])
    assert (values["sampling_steps"], values["turbo"], values["audio_mode"]) == (40, True, "add")
    assert values["num_frames"] is None
    assert values["seed"] == 3
    assert type(values["seed"]) is int
    assert type(values["text_guidance"]) is float


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"image": "a.png"}, "first_audio is missing"),
        ({**FILES, "image": None}, "image is missing"),
        ({**FILES, "steps": 3}, "'steps' is no input; allowed are image, first_audio"),
        ({**FILES, "sampling_steps": 101}, "sampling_steps is 101; allowed is 2 to 100"),
        ({**FILES, "num_frames": 0}, "num_frames is 0; allowed is 1 or more"),
        ({**FILES, "sampling_steps": 2.5}, "sampling_steps is 2.5; a whole number is needed"),
        ({**FILES, "seed": True}, "seed is True; a whole number"),
        ({**FILES, "shift": float("inf")}, "shift is inf; a number is needed"),
        ({**FILES, "shift": 10**400}, r"shift is 10{70,}\.\.\.; a number is needed"),
        ({**FILES, "seed": -(10**400)}, r"seed is -10{70,}\.\.\.; a whole number is needed"),
        ({**FILES, "turbo": 1}, "turbo is 1; true or false"),
        ({**FILES, "audio_mode": "loud"}, "audio_mode is 'loud'; allowed are add, para"),
        ({**FILES, "prompt": ["x" * 100]}, r"prompt is \['x{60,}\.\.\.; text is needed"),
    ],
)
def test_what_is_refused(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=f"^{words}"):
        validate(inputs, DOCUMENT)
