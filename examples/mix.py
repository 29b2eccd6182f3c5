"""Puts music under a voice: `python -m examples.mix` writes anna_with_music.ogg beside this file."""

from pathlib import Path

import numpy as np
import soundfile

# A chord a second, of three notes each, in Hz.
CHORDS = ((220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (220.0, 277.2, 329.6), (164.8, 207.7, 246.9))
VOLUME = 0.12


def music(seconds: float, rate: int) -> np.ndarray:
    """The chords, each plucked and fading: (N,) float32."""
    time_N = np.arange(round(seconds * rate)) / rate
    chord_N = time_N.astype(int) % len(CHORDS)
    notes_3N = np.array(CHORDS)[chord_N].T
    return (VOLUME * np.exp(-2 * (time_N % 1)) * np.sin(2 * np.pi * notes_3N * time_N).sum(axis=0)).astype(np.float32)


def main() -> None:
    """Write the mix."""
    folder = Path(__file__).parent
    voice_N, rate = soundfile.read(folder / "voice_anna.flac", dtype="float32")
    soundfile.write(folder / "anna_with_music.ogg", voice_N + music(len(voice_N) / rate, rate), rate)


if __name__ == "__main__":
    main()
