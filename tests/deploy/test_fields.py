"""Error messages in terms of a request's own field names."""

import pytest

from deploy.fields import translate_names

NAMES = {"image": "picture", "first_audio": "audio"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image has 5 x 5 pixels", "picture has 5 x 5 pixels"),
        ("audio_start is 9 s, but first_audio ends at 1 s", "audio_start is 9 s, but audio ends at 1 s"),
        ("first_audio: the file 'first_audio.wav' is empty", "audio: the file 'first_audio.wav' is empty"),
        ("image is 'https://example.org/image?x'", "picture is 'https://example.org/image?x'"),
        ("images of an image_thing", "images of an image_thing"),
    ],
)
def test_input_names_are_translated_outside_of_quotes_and_paths(text: str, expected: str) -> None:
    assert translate_names(text, NAMES) == expected
