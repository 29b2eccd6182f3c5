"""Both forms of request, field by field."""

from typing import Any

import pytest

from deploy.runpod_worker.schemas import ParsedRequest
from deploy.runpod_worker.schemas import parse_request as read
from src.errors import InputError

FIRST = {"reference_image": "a.png", "audio_1": "1.wav"}
MOST = 600.0
SECOND = {"action": "generate", "reference_image": "a.png", "audio": "1.wav"}


def read_wish(fields: dict[str, Any], most_seconds: float = MOST) -> ParsedRequest:
    return read(fields, most_seconds)


def test_the_first_form_has_the_defaults_of_its_deployments() -> None:
    wish = read_wish(FIRST)
    assert wish.media == {"image": "a.png", "first_audio": "1.wav"}
    assert wish.values == {
        "prompt": None,
        "num_frames": 100,
        "seed": 42,
        "turbo": False,
        "sampling_steps": 20,
        "text_guidance": 7.5,
        "fps": 8,
    }
    assert not wish.detailed


def test_the_first_form_says_everything() -> None:
    wish = read_wish(
        {
            **FIRST,
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
    assert wish.media["second_audio"] == "2.wav"
    assert wish.values["prompt"] == "hello"
    assert wish.values["text_guidance"] == 3.0
    assert wish.values["fps"] == 25


def test_the_second_form() -> None:
    wish = read_wish({**SECOND, "duration": 5.0, "width": 480, "height": 640, "fps": 30, "s3_output_key": "o/a.mp4"})
    assert wish.media == {"image": "a.png", "first_audio": "1.wav"}
    assert wish.values["num_frames"] == 125
    assert wish.values["resolution"] == "480p"
    assert wish.values["fps"] == 30
    assert wish.size == (480, 640)
    assert (wish.output, wish.key, wish.detailed) == ("s3", "o/a.mp4", True)
    assert read_wish({**SECOND, "width": 1280, "height": 720}).values["resolution"] == "720p"
    assert read_wish(SECOND).values["num_frames"] is None
    assert read_wish({"audio": "1.wav", "reference_image": "a.png"}).detailed


def test_the_operators_limit_is_that_of_the_duration() -> None:
    assert read_wish({**SECOND, "duration": 1200}, most_seconds=1200).values["num_frames"] == 30_000
    with pytest.raises(InputError, match=r"duration is 31; allowed is 0\.04 to 30"):
        read_wish({**SECOND, "duration": 31}, most_seconds=30)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "reference_image is missing"),
    ({"reference_image": "a.png"}, "audio_1 is missing"),
    ({"audio_1": "1.wav"}, "reference_image is missing"),
    ({"action": "generate", "audio": "1.wav"}, "reference_image is missing"),
    ({"action": "generate", "reference_image": "a.png"}, "audio is missing"),
    ({**FIRST, "num_frames": 202}, "num_frames is 202; allowed is 1 to 201"),
    ({**FIRST, "num_frames": 0}, "num_frames is 0"),
    ({**FIRST, "num_frames": "ten"}, "num_frames is 'ten'; a whole number is needed"),
    ({**FIRST, "num_frames": True}, "num_frames is True; a whole number"),
    ({**FIRST, "sampling_steps": 1}, "sampling_steps is 1; allowed is 2 to 100"),
    ({**FIRST, "guidance_scale": 0.5}, "guidance_scale is 0.5"),
    ({**FIRST, "guidance_scale": float("nan")}, "guidance_scale is nan"),
    ({**FIRST, "fps": 0}, "fps is 0; allowed is 8 to 60"),
    ({**FIRST, "turbo": "yes"}, "turbo is 'yes'; true or false"),
    ({**FIRST, "seed": -1}, "seed is -1"),
    ({**FIRST, "prompt": 5}, "prompt is 5; text is needed"),
    ({**FIRST, "reference_image": 5}, "reference_image is 5; text is needed"),
    ({**FIRST, "audio_3": "3.wav"}, "'audio_3' is an unknown field; allowed are reference_image, audio_1"),
    ({**FIRST, "x" * 500: 1}, r"x'\.\.\. \(500 characters\) is an unknown field"),
    ({**FIRST, "audio": "1.wav"}, "audio_1 and audio contradict"),
    ({**SECOND, "num_frames": 5}, "num_frames and action contradict"),
    ({**SECOND, "action": "train"}, "action is 'train'; allowed are generate"),
    ({**SECOND, "duration": 0}, "duration is 0"),
    ({**SECOND, "duration": 601}, "duration is 601"),
    ({**SECOND, "width": 480}, "width and height belong together"),
    ({**SECOND, "width": 481, "height": 480}, "even numbers"),
    ({**SECOND, "width": 4000, "height": 480}, "width is 4000"),
    ({**SECOND, "output_format": "gif"}, "output_format is 'gif'; allowed are s3, base64"),
    ({**SECOND, "output_format": "base64", "s3_output_key": "a.mp4"}, "base64 and s3_output_key contradict"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_wish(fields)
