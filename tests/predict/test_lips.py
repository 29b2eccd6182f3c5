"""From file to file: the person whose voice is heard is the one whose mouth moves in the MP4."""

import pytest

from benchmarks.quality.face_reader import mouth_opening
from examples.draw import IMAGES
from src.media.persons.boxes import Box
from tests.conftest import ROOT
from tests.predict.conftest import Service
from tests.predict.media_files import uri
from tests.predict.output_video import OutputVideo, decode_output
from training.scenes import face_boxes

EXAMPLES = ROOT / "examples"
SHRUNK = 8
"""The example picture is as many times larger than the small model's frames."""
TURN = 20
"""Frames that each of the two speaks."""


def speak(service: Service, **inputs: str | None) -> OutputVideo:
    """Anna's voice, then Ben's."""
    files = {"image": "two_people.png", "first_audio": "voice_anna.flac", "second_audio": "voice_ben.flac"}
    uploads: dict[str, str | None] = {name: uri((EXAMPLES / file).read_bytes()) for name, file in files.items()}
    sampling = {"num_frames": None, "audio_duration": TURN / 25, "preset": "fast", "sampling_steps": 5}
    return decode_output(service.succeed(**(uploads | sampling | inputs)))


def mouth_openings(video: OutputVideo) -> list[list[float]]:
    """Mean opening of the left and the right person's mouth in the first turn, and in the second if there is one."""
    boxes = [
        Box(top=box.top // SHRUNK, left=box.left // SHRUNK, bottom=box.bottom // SHRUNK, right=box.right // SHRUNK)
        for box in face_boxes(IMAGES["two_people.png"])
    ]
    tracks = [mouth_opening(video.frames_FHWC, box) for box in boxes]
    slices = [turn for turn in (slice(1, TURN - 2), slice(TURN + 2, 2 * TURN)) if turn.start < video.frames]
    return [[float(track[turn].mean()) for track in tracks] for turn in slices]


@pytest.fixture(scope="module")
def turns(service: Service) -> list[list[float]]:
    """The example, as it is."""
    return mouth_openings(speak(service))


def test_each_speaks_with_their_own_voice(turns: list[list[float]]) -> None:
    (anna, listening_ben), (listening_anna, ben) = turns
    assert anna > max(0.2, 3 * listening_ben)
    assert ben > max(0.2, 3 * listening_anna)


def test_swapped_boxes_swap_the_voices(service: Service) -> None:
    (listening_anna, ben), (anna, listening_ben) = mouth_openings(
        speak(service, person_boxes="0.55,0.1,0.95,0.9;0.05,0.1,0.45,0.9")
    )
    assert anna > max(0.2, 3 * listening_ben)
    assert ben > max(0.2, 3 * listening_anna)


def test_one_speaks_and_the_others_listen(service: Service) -> None:
    """One voice and the box of the person on the right, and nothing about the others."""
    listening, speaking = mouth_openings(speak(service, second_audio=None, person_boxes="0.55,0.1,0.95,0.9"))[0]
    assert speaking > max(0.2, 3 * listening)
