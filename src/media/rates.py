"""Frame rate and sample rate of the models, and conversions between clocks."""

from fractions import Fraction

FPS = 25
"""Video frames per second."""
SPEECH_RATE = 16_000
"""Samples per second of the speech encoder's input."""
SAMPLES_PER_FRAME = SPEECH_RATE // FPS


def samples_at(sample_rate: int, num_frames: int) -> int:
    """The number of samples that last as long as `num_frames` at FPS, to the nearest."""
    return round(Fraction(num_frames * sample_rate, FPS))


def frames_at(fps: int, num_frames: int) -> int:
    """The number of frames at `fps` that last as long as `num_frames` at FPS, to the nearest; at least one."""
    return max(1, round(Fraction(num_frames * fps, FPS)))


def source_frame(fps: int, index: int) -> int:
    """The index of the frame at FPS that is shown in the middle of frame `index` at `fps`."""
    return (2 * index + 1) * FPS // (2 * fps)
