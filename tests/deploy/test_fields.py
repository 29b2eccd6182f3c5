"""A request's fields in another form's terms."""

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
def test_names_are_the_callers(text: str, expected: str) -> None:
    assert translate_names(text, NAMES) == expected
