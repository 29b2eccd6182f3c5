"""The two clocks that everything here is counted on."""

from fractions import Fraction

FPS = 25
"""Frames of video a second."""
SPEECH_RATE = 16_000
"""Samples a second of what the speech encoder hears."""
SAMPLES_PER_FRAME = SPEECH_RATE // FPS


def frames_at(fps: int, frames: int) -> int:
    """How many frames of `fps` a second last as long as `frames` of FPS, to the nearest; at least one."""
    return max(1, round(Fraction(frames * fps, FPS)))


def source_frame(fps: int, index: int) -> int:
    """Which frame of FPS a second is seen in the middle of frame `index` of `fps` a second."""
    return (2 * index + 1) * FPS // (2 * fps)
