"""Decoded audio frames placed in time by their timestamps: a gap is silence, and what overlaps is left out.

Recorders of screens, phones and browsers write no packets while nothing is heard.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import av

from src.serving.request_warnings import warn_caller

# Smaller differences are rounding and jitter; audio and video must agree to 20 ms.
TOLERANCE_SECONDS = 0.015
# A frame is late or early only if this many frames from it on are so in the median; otherwise it is jitter.
LOOKAHEAD_FRAMES = 16
# A larger step back means that the clock restarted, as in concatenated files.
MAX_OVERLAP_SECONDS = 1.0


class PlacedFrame(NamedTuple):
    """A frame, the samples of silence before it, and the number of its first samples that are left out."""

    frame: av.AudioFrame
    silence: int
    skip: int


class TimedFrame(NamedTuple):
    """A frame, and its timestamp minus the duration of all frames before it, in seconds."""

    frame: av.AudioFrame
    offset: float


def place_frames(
    frames: Iterator[av.AudioFrame], *, start: float | None, max_late: float, max_gap: float, name: str
) -> Iterator[PlacedFrame]:
    """Place frames on a timeline whose zero is at `start` seconds; None means at the first frame.

    The first frame may begin up to `max_late` seconds after zero, and any other after a gap of up to `max_gap` seconds.
    After a longer gap or a step back the audio continues where it is, and the caller is warned.
    """
    offset, max_step = start, max_late
    for window in _windows(_measure_offsets(frames)):
        frame = window[0].frame
        offset = window[0].offset if offset is None else offset
        is_before_zero = (frame.time or 0.0) < min(start or 0.0, 0.0)
        step = window[0].offset - offset if is_before_zero else _common_step(window, offset)
        if step > max_step or (step < -MAX_OVERLAP_SECONDS and not is_before_zero):
            warn_caller(f"{name}: its time stamps step by {step:+.2f} s at {frame.time:.2f} s, which is ignored")
            offset, step = window[0].offset, 0.0
        silence, skip = round(max(step, 0) * frame.rate), min(round(max(-step, 0) * frame.rate), frame.samples)
        offset += (silence - skip) / frame.rate
        yield PlacedFrame(frame, silence, skip)
        max_step = max_gap


def _common_step(window: Sequence[TimedFrame], offset: float) -> float:
    """How much later than `offset` the first frame is, if it and the median of the window exceed the tolerance."""
    step, typical = window[0].offset - offset, median(timed.offset for timed in window) - offset
    is_step = min(step, typical) > TOLERANCE_SECONDS or max(step, typical) < -TOLERANCE_SECONDS
    return step if is_step else 0.0


def _measure_offsets(frames: Iterator[av.AudioFrame]) -> Iterator[TimedFrame]:
    """A frame without a timestamp has the offset of the one before, or else 0."""
    seconds = offset = 0.0
    for frame in frames:
        offset = offset if frame.time is None else frame.time - seconds
        yield TimedFrame(frame, offset)
        seconds += frame.samples / frame.rate


def _windows(frames: Iterator[TimedFrame]) -> Iterator[Sequence[TimedFrame]]:
    """Each frame with up to LOOKAHEAD_FRAMES - 1 that follow it."""
    window: deque[TimedFrame] = deque()
    for frame in frames:
        window.append(frame)
        if len(window) == LOOKAHEAD_FRAMES:
            yield window
            window.popleft()
    while window:
        yield window
        window.popleft()
