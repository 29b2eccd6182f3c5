"""`python -m examples.mix`: mix music under a voice, into anna_with_music.ogg in this folder."""

from collections.abc import Sequence

from examples.arguments import FOLDER, folder_parser
from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    return folder_parser("-m examples.mix", __doc__)


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("examples.mix", make_parser)


import numpy as np
import soundfile

# One chord of three notes per second, in Hz.
CHORDS = ((220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (220.0, 277.2, 329.6), (164.8, 207.7, 246.9))
VOLUME = 0.12


def make_music(seconds: float, sample_rate: int) -> np.ndarray:
    """The chords, each with an exponential decay: (N,) float32."""
    time_N = np.arange(round(seconds * sample_rate)) / sample_rate
    chord_N = time_N.astype(int) % len(CHORDS)
    notes_3N = np.array(CHORDS)[chord_N].T
    return (VOLUME * np.exp(-2 * (time_N % 1)) * np.sin(2 * np.pi * notes_3N * time_N).sum(axis=0)).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    folder = make_parser().parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    voice_N, sample_rate = soundfile.read(FOLDER / "voice_anna.flac", dtype="float32")
    soundfile.write(
        folder / "anna_with_music.ogg", voice_N + make_music(len(voice_N) / sample_rate, sample_rate), sample_rate
    )
