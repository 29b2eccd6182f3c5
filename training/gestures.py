"""What heads and eyes of shaded drawings do with speech: who speaks nods, who only listens looks at who speaks."""

import numpy as np
from numpy.typing import NDArray

from training.characters import Pose
from training.mouths import MouthCurve

_REACH = 6
"""Frames before and after a frame whose speech moves the head."""


def speech_gestures(openings: list[MouthCurve], side: float) -> NDArray[np.float64]:
    """How much each person speaks (0..1), and looks to a side (-1..1), in every frame: persons x frames x 2.

    `side`: where the second person is, seen from the first, 1 on the right.
    """
    kernel = np.hanning(2 * _REACH + 3)[1:-1] / (_REACH + 1)
    speaking = np.stack([np.convolve(np.pad(each, _REACH, mode="edge"), kernel, mode="valid") for each in openings])
    gaze = np.zeros_like(speaking)
    if len(openings) == 2:
        gaze = np.clip(5 * (speaking[::-1] - speaking) - 0.25, 0, 1) * np.array([[side], [-side]])
    return np.stack((speaking, gaze), axis=-1)


def move_with_speech(pose: Pose, gesture: NDArray[np.float64]) -> Pose:
    """A pose with the gesture of its frame."""
    speaking, gaze = gesture.tolist()
    return pose._replace(
        x=pose.x + 0.03 * gaze * pose.unit,
        y=pose.y - 0.09 * speaking * pose.unit,
        tilt=pose.tilt + 0.05 * gaze,
        gaze=gaze,
        brows=max(pose.brows, 0.25 * speaking),
    )
