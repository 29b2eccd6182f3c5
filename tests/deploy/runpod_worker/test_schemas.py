"""Both request formats, field by field."""

from typing import Any

import pytest

from deploy.runpod_worker.schemas import ParsedRequest, parse_request
from src.errors import InputError

BASIC = {"reference_image": "a.png", "audio_1": "1.wav"}
MAX_SECONDS = 600.0
DETAILED = {"action": "generate", "reference_image": "a.png", "audio": "1.wav"}


def parse(fields: dict[str, Any], max_seconds: float = MAX_SECONDS) -> ParsedRequest:
    return parse_request(fields, max_seconds)


def test_defaults_of_the_basic_format() -> None:
    request = parse(BASIC)
    assert request.files == {"image": "a.png", "first_audio": "1.wav"}
    assert request.values == {
        "prompt": None,
        "num_frames": 100,
        "seed": 42,
        "turbo": False,
        "sampling_steps": 20,
        "text_guidance": 7.5,
        "fps": 8,
    }
    assert not request.include_info


def test_all_fields_of_the_basic_format() -> None:
    request = parse(
        {
            **BASIC,
            "audio_2": "2.wav",
            "prompt": "hello",
            "num_frames": 201,
            "seed": 1,
            "turbo": True,
            "sampling_steps": 2,
            "guidance_scale": 3,
            "fps": 25,
        }
    )
    assert request.files["second_audio"] == "2.wav"
    assert request.values["prompt"] == "hello"
    assert request.values["text_guidance"] == 3.0
    assert request.values["fps"] == 25


def test_detailed_format() -> None:
    request = parse({**DETAILED, "duration": 5.0, "width": 480, "height": 640, "fps": 30, "s3_output_key": "o/a.mp4"})
    assert request.files == {"image": "a.png", "first_audio": "1.wav"}
    assert request.values["num_frames"] == 125
    assert request.values["resolution"] == "480p"
    assert request.values["fps"] == 30
    assert request.size == (480, 640)
    assert (request.output, request.key, request.include_info) == ("s3", "o/a.mp4", True)
    assert parse({**DETAILED, "width": 1280, "height": 720}).values["resolution"] == "720p"
    assert parse(DETAILED).values["num_frames"] is None
    assert parse({"audio": "1.wav", "reference_image": "a.png"}).include_info


@pytest.mark.parametrize("form", [BASIC, DETAILED])
def test_lists_of_both_formats(form: dict[str, Any]) -> None:
    plain = parse(form)
    files = {"person_masks": ["1.png", "2.png"], "conditioning_audio": ["3.wav"], "lora_files": ["4.safetensors"]}
    request = parse({**form, **files, "loras": ["file1:0.5"]})
    assert request.files == {**plain.files, **files}
    assert request.values == {**plain.values, "loras": ["file1:0.5"]}
    empty = parse({**form, "person_masks": [], "lora_files": None, "loras": []})
    assert (empty.files, empty.values) == (plain.files, plain.values)


def test_duration_is_bounded_by_max_seconds() -> None:
    assert parse({**DETAILED, "duration": 1200}, max_seconds=1200).values["num_frames"] == 30_000
    with pytest.raises(InputError, match=r"duration is 31; allowed is 0\.04 to 30"):
        parse({**DETAILED, "duration": 31}, max_seconds=30)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "reference_image is missing"),
    ({"reference_image": "a.png"}, "audio_1 is missing"),
    ({"audio_1": "1.wav"}, "reference_image is missing"),
    ({"action": "generate", "audio": "1.wav"}, "reference_image is missing"),
    ({"action": "generate", "reference_image": "a.png"}, "audio is missing"),
    ({**BASIC, "num_frames": 202}, "num_frames is 202; allowed is 1 to 201"),
    ({**BASIC, "num_frames": 0}, "num_frames is 0"),
    ({**BASIC, "num_frames": "ten"}, "num_frames is 'ten'; a whole number is needed"),
    ({**BASIC, "num_frames": True}, "num_frames is True; a whole number"),
    ({**BASIC, "sampling_steps": 1}, "sampling_steps is 1; allowed is 2 to 100"),
    ({**BASIC, "guidance_scale": 0.5}, "guidance_scale is 0.5"),
    ({**BASIC, "guidance_scale": float("nan")}, "guidance_scale is nan"),
    ({**BASIC, "fps": 0}, "fps is 0; allowed is 8 to 60"),
    ({**BASIC, "turbo": "yes"}, "turbo is 'yes'; true or false"),
    ({**BASIC, "seed": -1}, "seed is -1"),
    ({**BASIC, "prompt": 5}, "prompt is 5; text is needed"),
    ({**BASIC, "reference_image": 5}, "reference_image is 5; text is needed"),
    ({**BASIC, "audio_3": "3.wav"}, "'audio_3' is not an accepted field; allowed are reference_image, audio_1"),
    ({**BASIC, "x" * 500: 1}, r"x'\.\.\. \(500 characters\) is not an accepted field"),
    ({**BASIC, "audio": "1.wav"}, "audio_1 and audio contradict"),
    ({**BASIC, "person_masks": "1.png"}, "person_masks is '1.png'; a list is needed"),
    ({**DETAILED, "lora_files": [5]}, "lora_files is 5; text is needed"),
    ({**DETAILED, "num_frames": 5}, "num_frames and action contradict"),
    ({**DETAILED, "action": "train"}, "action is 'train'; allowed are generate"),
    ({**DETAILED, "duration": 0}, "duration is 0"),
    ({**DETAILED, "duration": 601}, "duration is 601"),
    ({**DETAILED, "width": 480}, "width and height belong together"),
    ({**DETAILED, "width": 481, "height": 480}, "even numbers"),
    ({**DETAILED, "width": 4000, "height": 480}, "width is 4000"),
    ({**DETAILED, "output_format": "gif"}, "output_format is 'gif'; allowed are s3, base64"),
    ({**DETAILED, "output_format": "base64", "s3_output_key": "a.mp4"}, "base64 and s3_output_key contradict"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_invalid_requests_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(fields)
