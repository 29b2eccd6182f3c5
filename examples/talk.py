"""`python -m examples.talk`: speak a conversation with eSpeak NG, one recording of its whole length for each person.

Writes talk_anna.flac and talk_ben.flac into this folder; a person's recording is silent while the other one speaks.
"""

from collections.abc import Sequence

from examples.arguments import folder_parser
from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    return folder_parser("-m examples.talk", __doc__)


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("examples.talk", make_parser)

import io
import subprocess

import numpy as np
import soundfile
from numpy.typing import NDArray

SECONDS = 12.0
PAUSE_SECONDS = 0.2
VOICES = {
    "anna": ("-v", "en-us+f2", "-s", "165", "-p", "62"),
    "ben": ("-v", "en-gb+m3", "-s", "165", "-p", "36"),
}
"""eSpeak NG's arguments for each person."""
TURNS = (
    ("anna", "Good morning, Ben! Did you see the sun?"),
    ("ben", "I did. The whole sky was pink and gold."),
    ("anna", "Then let us paint it, before it is gone."),
    ("ben", "Good idea! You paint pink and I paint gold."),
)
_SILENCE = 0.01
"""Amplitude below which the ends of a sentence are trimmed."""


def speak(person: str, sentence: str) -> tuple[NDArray[np.float32], int]:
    """A sentence without the silence around it, (N,), and its sample rate."""
    done = subprocess.run(["espeak-ng", *VOICES[person], "--stdout", sentence], capture_output=True, check=True)
    speech_N, sample_rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    (loud,) = np.nonzero(np.abs(speech_N) > _SILENCE)
    return speech_N[loud[0] : loud[-1] + 1], sample_rate


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files."""
    folder = make_parser().parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    spoken = [(person, *speak(person, sentence)) for person, sentence in TURNS]
    sample_rate = spoken[0][2]
    recordings = {person: np.zeros(round(SECONDS * sample_rate), np.float32) for person in VOICES}
    start = 0
    for person, speech_N, _ in spoken:
        recordings[person][start : start + len(speech_N)] = speech_N
        start += len(speech_N) + round(PAUSE_SECONDS * sample_rate)
    for person, recording_N in recordings.items():
        soundfile.write(folder / f"talk_{person}.flac", recording_N, sample_rate)
