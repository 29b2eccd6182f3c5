"""The figures of one row: what was read from the faces of its clips, and what became of everything but the mouths.

Shapes: F frames, H x W pixels.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.clips import CHUNK, MOTION, Clip
from benchmarks.quality.face_reader import Face, Region, Video, mouth_free, mouth_opening
from benchmarks.quality.sync_metrics import (
    Reading,
    best_lag,
    interval,
    mean_correlation,
    other_correlation,
    own_correlation,
    shuffled_correlation,
    still,
)
from training.scenes import face_boxes
from wan.conditioning.speakers import BoxRegion

Figures = dict[str, Any]
_LAST = 8
"""Frames at the end of a clip over which drift is taken."""
_CELLS = 4
_ABOVE_MOUTH = (-1.1, 0.1)
"""From the hair to the cheeks, in units of the face."""


def read(clip: Clip, frames: Video) -> list[Reading]:
    """What every face of a clip did, and should have done; without the first frame, which is the picture."""
    readings = []
    for face, box in enumerate(face_boxes(clip.scene)):
        other = clip.openings[1 - face] if clip.row.persons == 2 else None
        opening = mouth_opening(frames, box)
        reading = Reading(face=face, read=opening, own=clip.openings[face], other=other, floor=clip.floors[face])
        readings.append(reading.part(1, None))
    return readings


def measure(clips: Sequence[Clip], videos: Sequence[Video]) -> Figures:
    """All figures of a row, over at least one clip; correlations are None where nothing sounds."""
    readings = [reading for clip, video in zip(clips, videos, strict=True) for reading in read(clip, video)]
    own = own_correlation(readings)
    quiet_mean, quiet_deviation = still(readings)
    faces = [(clip, video) for clip, video in zip(clips, videos, strict=True)]
    figures: Figures = {
        "own": own,
        "own_95": interval(readings, own_correlation),
        "own_mean_of_clips": mean_correlation(readings),
        "lag": best_lag(readings) if np.isfinite(own) else None,
        "other": other_correlation(readings),
        "other_95": interval(readings, other_correlation),
        "shuffled": shuffled_correlation(readings),
        "still_mean": quiet_mean,
        "still_deviation": quiet_deviation,
        "drift": float(np.mean([drift(video, box) for clip, video in faces for box in face_boxes(clip.scene)])),
        "psnr": float(np.mean([psnr(video, face_boxes(clip.scene)) for clip, video in faces])),
    }
    if clips[0].row.chunks > 1:
        figures["own_first_chunk"] = own_correlation([reading.part(0, CHUNK - 1) for reading in readings])
        figures["own_last_chunk"] = own_correlation([reading.part(MOTION - CHUNK, None) for reading in readings])
    return {name: finite(value) for name, value in figures.items()}


def finite(value: Any) -> Any:
    """JSON knows no nan: None stands for it."""
    if isinstance(value, tuple):
        return [finite(each) for each in value]
    return None if value is None or not np.isfinite(value) else value


def drift(video: Video, box: BoxRegion) -> float:
    """How far a face's colours above the mouth are from the first frame's at the end: rms of cell means, 0..255."""
    early, late = (cells(frames, box).mean(0) for frames in (video[:1], video[-_LAST:]))
    return float(np.sqrt(np.mean((late - early) ** 2)))


def cells(video: Video, box: BoxRegion) -> NDArray[np.float64]:
    """Mean colours of the cells of a grid over the upper face: F x cells x 3."""
    face = Face.within(box)
    columns, rows = np.linspace(-0.8, 0.8, _CELLS + 1), np.linspace(*_ABOVE_MOUTH, _CELLS)
    means = []
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            region = Region(left=left, right=right, top=top, bottom=bottom)
            weights = face.weights(region, *video.shape[1:3])
            means.append(np.tensordot(video, weights, axes=((1, 2), (0, 1))) / weights.sum())
    return np.stack(means, axis=1)


def psnr(video: Video, boxes: list[BoxRegion]) -> float:
    """Of all pixels that belong to no mouth, against the first frame: the mean over the later frames, in dB."""
    free = mouth_free(boxes, *video.shape[1:3])
    pixels = video[:, free].astype(np.float64)
    errors = np.mean((pixels[1:] - pixels[:1]) ** 2, axis=(1, 2))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-2))))
