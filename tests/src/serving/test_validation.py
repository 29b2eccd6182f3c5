"""Inputs validated against the predictor's schema, outside Cog's server."""

from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.schema import openapi
from src.serving.validation import ValidationError, validate, validate_object
from tests.conftest import ROOT

DOCUMENT = openapi((ROOT / "predict.py").read_text(encoding="utf-8"))
FILES = {"image": "a.png", "first_audio": "1.wav"}


def test_defaults_are_filled_in_and_types_converted() -> None:
    values = validate({**FILES, "seed": 3.0, "text_guidance": 2, "num_frames": None}, DOCUMENT)
    assert list(values) == list(DOCUMENT["components"]["schemas"]["Input"]["properties"])
    assert (values["sampling_steps"], values["turbo"], values["audio_mode"]) == (40, True, "add")
    assert values["num_frames"] is None
    assert values["seed"] == 3
    assert type(values["seed"]) is int
    assert type(values["text_guidance"]) is float


def test_files_may_be_paths() -> None:
    files = {"image": Path("a.png"), "first_audio": Path("1.wav"), "person_masks": [Path("m.png")]}
    assert validate(files, DOCUMENT).items() >= files.items()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": "a.png"}, "first_audio is missing"),
        ({**FILES, "image": None}, "image is missing"),
        ({**FILES, "steps": 3}, "'steps' is not an input; allowed are image, first_audio"),
        ({**FILES, "steps": None}, "'steps' is not an input"),
        ({**FILES, "sampling_steps": 101}, "sampling_steps is 101; allowed is 2 to 100"),
        ({**FILES, "num_frames": 0}, "num_frames is 0; allowed is 1 or more"),
        ({**FILES, "sampling_steps": 2.5}, "sampling_steps is 2.5; a whole number is needed"),
        ({**FILES, "seed": True}, "seed is True; a whole number"),
        ({**FILES, "shift": float("inf")}, "shift is inf; a number is needed"),
        ({**FILES, "shift": float("nan")}, "shift is nan; a number is needed"),
        ({**FILES, "shift": 10**400}, r"shift is 10{70,}\.\.\..*; a number is needed"),
        ({**FILES, "seed": -(10**400)}, r"seed is -10{70,}\.\.\..*; a whole number is needed"),
        ({**FILES, "turbo": 1}, "turbo is 1; true or false"),
        ({**FILES, "audio_mode": "loud"}, "audio_mode is 'loud'; allowed are add, para"),
        ({**FILES, "prompt": ["x" * 100]}, r"prompt is \['x{60,}\.\.\..*; text is needed"),
        ({**FILES, "person_masks": "m.png"}, "person_masks is 'm.png'; a list is needed"),
        ({**FILES, "person_masks": ["m.png", 3]}, "person_masks is 3; text is needed"),
    ],
)
def test_invalid_inputs_are_described(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"^{message}"):
        validate(inputs, DOCUMENT)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ({"type": "integer", "maximum": 5}, 6, "size is 6; allowed is 5 or less"),
        ({"type": "string", "minLength": 1}, "", "size has 0 characters; allowed are at least 1"),
        ({"type": "string", "maxLength": 2}, "abc", "size has 3 characters; allowed are at most 2"),
    ],
)
def test_other_bounds_are_described(field: dict[str, Any], value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        validate_object({"size": value}, {"properties": {"size": field}})
