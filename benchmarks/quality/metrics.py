"""Quality metrics of the clips of one row: lip sync, and what wears off: colors, edges, faces and background.

Shapes: F frames, H x W pixels.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_gradient_magnitude

from benchmarks.quality.clips import CHUNK, MOTION, Clip
from benchmarks.quality.face_reader import Face, Region, Video, mouth_opening, outside_mouths
from benchmarks.quality.faces import measure_faces, summarize_faces
from benchmarks.quality.sync_metrics import (
    MouthReading,
    best_lag,
    bootstrap_interval,
    mean_correlation,
    other_correlation,
    own_correlation,
    shuffled_correlation,
    silent_opening,
)
from src.media.persons.boxes import Box
from training.scenes import face_boxes, render_frame

Metrics = dict[str, Any]
_DRIFT_FRAMES = 8
"""Frames at the end of a clip over which drift is averaged."""
_GRID = 4
_EDGE_PERCENT = 10
"""Share of the pixels that count as edges."""
_BACKGROUND_MARGIN = 0.05
"""Distance of the background from persons, as a share of the shorter side."""
_UPPER_FACE = (-1.1, 0.1)
"""Vertical range from the hair to the cheeks, in face units."""


def read_mouths(clip: Clip, frames: Video) -> list[MouthReading]:
    """Measured and expected mouth opening of every face, without the first frame (the input image)."""
    readings = []
    for face, box in enumerate(face_boxes(clip.scene)):
        other = clip.openings[1 - face] if clip.row.persons == 2 else None
        opening = mouth_opening(frames, box)
        reading = MouthReading(
            face=face, measured=opening, own=clip.openings[face], other=other, active=clip.active[face]
        )
        readings.append(reading.slice(1, None))
    return readings


def compute_metrics(clips: Sequence[Clip], videos: Sequence[Video]) -> Metrics:
    """All metrics of a row over at least one clip; correlations are None without audio."""
    pairs = list(zip(clips, videos, strict=True))
    readings = [reading for clip, video in pairs for reading in read_mouths(clip, video)]
    own = own_correlation(readings)
    silent_mean, silent_std = silent_opening(readings)
    metrics: Metrics = {
        "own": own,
        "own_95": bootstrap_interval(readings, own_correlation),
        "own_mean_of_clips": mean_correlation(readings),
        "lag": best_lag(readings) if np.isfinite(own) else None,
        "other": other_correlation(readings),
        "other_95": bootstrap_interval(readings, other_correlation),
        "shuffled": shuffled_correlation(readings),
        "silent_mean": silent_mean,
        "silent_std": silent_std,
        "drift": float(np.mean([drift(video, box) for clip, video in pairs for box in face_boxes(clip.scene)])),
        "psnr": float(np.mean([psnr(video, face_boxes(clip.scene)) for clip, video in pairs])),
    }
    if clips[0].row.num_chunks > 1:
        metrics["own_first_chunk"] = own_correlation([reading.slice(0, CHUNK - 1) for reading in readings])
        metrics["own_last_chunk"] = own_correlation([reading.slice(MOTION - CHUNK, None) for reading in readings])
        metrics["sharpness"] = float(np.mean([sharpness(clip, video) for clip, video in pairs]))
    metrics["background"] = float(np.nanmean([background_change(clip, video) for clip, video in pairs]))
    values = {name: to_json_value(value) for name, value in metrics.items()}
    return values | {"faces": summarize_faces([face for clip, video in pairs for face in measure_faces(clip, video)])}


def to_json_value(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, tuple):
        return [to_json_value(each) for each in value]
    return None if value is None or not np.isfinite(value) else value


def drift(video: Video, box: Box) -> float:
    """Color drift of the upper face from the first to the last frames: RMS over cell means, 0..255."""
    first, last = (cell_colors(frames, box).mean(0) for frames in (video[:1], video[-_DRIFT_FRAMES:]))
    return float(np.sqrt(np.mean((last - first) ** 2)))


def cell_colors(video: Video, box: Box) -> NDArray[np.float64]:
    """Mean colors of the cells of a grid over the upper face, F x cells x 3."""
    face = Face.from_box(box)
    columns, rows = np.linspace(-0.8, 0.8, _GRID + 1), np.linspace(*_UPPER_FACE, _GRID)
    means = []
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            region = Region(left=left, right=right, top=top, bottom=bottom)
            weights = face.weights(region, *video.shape[1:3])
            means.append(np.tensordot(video, weights, axes=((1, 2), (0, 1))) / weights.sum())
    return np.stack(means, axis=1)


def sharpness(clip: Clip, video: Video) -> float:
    """Mean gradient of the last chunk at the edges of the input image, as a fraction of that of the first chunk."""
    edges = gaussian_gradient_magnitude(clip.image().astype(np.float64).mean(-1), 0.5)
    mask_HW = (edges >= np.percentile(edges, 100 - _EDGE_PERCENT)) & outside_mouths(
        face_boxes(clip.scene), *edges.shape
    )
    first, last = (
        np.mean([gaussian_gradient_magnitude(frame.astype(np.float64).mean(-1), 0.5)[mask_HW] for frame in frames])
        for frames in (video[1:CHUNK], video[MOTION - CHUNK :])
    )
    return float(last / first)


def background_change(clip: Clip, video: Video) -> float:
    """Change of the mean color of the background, far from persons, in the last frames: RMS, 0..255."""
    image = clip.image()
    empty = render_frame(replace(clip.scene, characters=()), [])
    mask_HW = ~binary_dilation((empty != image).any(-1), iterations=round(_BACKGROUND_MARGIN * min(image.shape[:2])))
    if not mask_HW.any():
        return float("nan")
    change = video[-_DRIFT_FRAMES:, mask_HW].mean((0, 1)) - image[mask_HW].mean(0)
    return float(np.sqrt(np.mean(change**2)))


def psnr(video: Video, boxes: list[Box]) -> float:
    """PSNR in dB of the pixels outside mouths to the first frame, averaged over the later frames."""
    mask_HW = outside_mouths(boxes, *video.shape[1:3])
    pixels = video[:, mask_HW].astype(np.float64)
    errors = np.mean((pixels[1:] - pixels[:1]) ** 2, axis=(1, 2))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-2))))
