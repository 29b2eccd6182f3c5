"""Whether faces last: how much of the renderer's eyes, glasses and hair is left at the end of a chunk.

A part is found by its contrast: the difference between the mean colors of its pixels and of the pixels next to it, as a
fraction of the same difference in the input image, 1 if nothing is lost and 0 if the part is gone, blurred away or has
moved elsewhere. Which pixels belong to a part is known from the renderer, which draws the input image with and without
it. Heads move a little: a frame is aligned to the input image by the shift of the upper face that fits best.
Shapes: F frames, H x W pixels, 3 colors in 0..255.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from benchmarks.quality.clips import CHUNK, MOTION, Clip
from benchmarks.quality.face_reader import AROUND_MOUTH, Face, Region, Video
from training.characters import Character
from training.scenes import Scene, face_boxes, render_still

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]

CHECKED_CHUNKS = (1, 5, 10, 20)
"""After how many chunks faces are looked at."""
MIN_CONTRAST, MIN_KEPT = 0.3, 0.55
"""A part is lost below this contrast, or below this share of the contrast that it has after the first chunk.

Small parts lose contrast in the VAE at once, without getting lost.
"""
PARTS = ("white", "iris", "glasses", "hair", "skin")
UPPER_FACE = Region(left=-1.1, right=1.1, top=-1.4, bottom=0.1)
WHOLE_FACE = Region(left=-1.2, right=1.2, top=-1.4, bottom=1.1)
_EYES = Region(left=-0.75, right=0.75, top=-0.5, bottom=0.15)
_MAX_SHIFT = 0.15
"""Largest shift of a head, in units of half a face height."""
_MIN_PIXELS, _MIN_DIFFERENCE = 6, 60.0
"""Fewer pixels, or a smaller difference of colors, are no measure of a part."""
_PERCENTILE = 75
"""Of the contrasts of a chunk's frames: blinks are left out, a part that flickers is not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a face: its pixels in the input image, and the pixels next to it."""

    inside: Mask
    outside: Mask


def find_parts(scene: Scene, face: int) -> dict[str, list[Part]]:
    """The parts of a face that show clearly in the input image, of each eye its own; closed eyes have none."""
    person = scene.characters[face]
    box = Face.from_box(face_boxes(scene)[face])
    image = render_still(scene).astype(np.float64)
    height, width = scene.size

    def changed(other: Character, region: Region) -> Mask:
        people = tuple(other if i == face else each for i, each in enumerate(scene.characters))
        difference = np.abs(render_still(replace(scene, characters=people)) - image).sum(-1)
        return (difference > 0.5 * max(difference.max(), 1)) & (box.weights(region, height, width) > 0.5)

    iris = changed(replace(person, iris=_opposite(person.iris)), _EYES)
    glasses = changed(replace(person, glasses="none"), UPPER_FACE) if person.glasses != "none" else np.zeros_like(iris)
    hair = changed(replace(person, hair_color=_opposite(person.hair_color)), UPPER_FACE)
    skin = changed(replace(person, skin=_opposite(person.skin)), WHOLE_FACE)
    mouth = box.weights(AROUND_MOUTH, height, width) > 0
    white = (image.min(-1) > 225) & binary_dilation(iris, iterations=max(2, round(0.2 * box.unit))) & ~iris & ~glasses
    hidden = glasses | binary_dilation(iris | white)
    parts = {
        "white": Part(inside=white, outside=_around(white | iris, box) & ~glasses),
        "iris": Part(inside=iris, outside=white),
        "glasses": Part(inside=glasses, outside=_around(glasses, box) & ~white & ~iris),
        "hair": Part(inside=hair & _around(~hair, box), outside=_around(hair, box) & ~hidden),
        "skin": Part(
            inside=skin & _around(~skin & ~hidden, box) & ~mouth, outside=_around(skin, box) & ~hidden & ~mouth
        ),
    }
    shown = box.weights(WHOLE_FACE, height, width) > 0.5
    left = np.broadcast_to(np.arange(width) < box.x, shown.shape)
    found = {}
    for name, part in parts.items():
        is_eye = name in ("white", "iris")
        areas = [] if is_eye and scene.eyes_closed else [shown & left, shown & ~left] if is_eye else [shown]
        visible = [Part(inside=part.inside & area, outside=part.outside & area) for area in areas]
        found[name] = [each for each in visible if _is_clear(image, each)]
    return {name: each for name, each in found.items() if each}


def _is_clear(image: Pixels, part: Part) -> bool:
    """Whether a part has enough pixels and contrast to be measured."""
    if min(part.inside.sum(), part.outside.sum()) < _MIN_PIXELS:
        return False
    return float(np.linalg.norm(image[part.inside].mean(0) - image[part.outside].mean(0))) >= _MIN_DIFFERENCE


def measure_faces(clip: Clip, video: Video) -> list[dict[int, dict[str, float]]]:
    """Of every face, the contrast of its parts at the end of the checked chunks that the video has."""
    image = render_still(clip.scene)
    chunks = [count for count in CHECKED_CHUNKS if count <= clip.row.num_chunks]
    return [
        {count: contrasts(clip.scene, face, image, _last_frames(video, count)) for count in chunks}
        for face in range(len(clip.scene.characters))
    ]


def contrasts(scene: Scene, face: int, image: NDArray[np.uint8], frames: Video) -> dict[str, float]:
    """Contrast of every part of a face over some frames, of the worse eye."""
    box, parts = Face.from_box(face_boxes(scene)[face]), find_parts(scene, face)
    aligned = [_align(frame.astype(np.float64), image.astype(np.float64), box) for frame in frames]
    return {
        name: min(
            float(np.percentile([_contrast(frame, image, part) for frame in aligned], _PERCENTILE)) for part in each
        )
        for name, each in parts.items()
    }


def summarize_faces(faces: Sequence[dict[int, dict[str, float]]]) -> dict[str, dict[str, float | None]]:
    """By number of chunks: mean contrast of every part, and the share of faces that have lost one."""
    summary: dict[str, dict[str, float | None]] = {}
    for count in faces[0] if faces else ():
        at = [face[count] for face in faces]
        means = {part: [values[part] for values in at if part in values] for part in PARTS}
        lost = [any(is_lost(face, count, part) for part in face[count]) for face in faces]
        summary[str(count)] = {part: float(np.mean(values)) if values else None for part, values in means.items()}
        summary[str(count)]["lost"] = float(np.mean(lost))
    return summary


def is_lost(face: dict[int, dict[str, float]], count: int, part: str) -> bool:
    """Whether a part is lost after `count` chunks."""
    least = MIN_CONTRAST if count == 1 else max(MIN_CONTRAST, MIN_KEPT * face[1][part])
    return face[count][part] < least


def _last_frames(video: Video, count: int) -> Video:
    """The new frames of chunk number `count`."""
    end = CHUNK + (count - 1) * (CHUNK - MOTION)
    return video[max(1, end - (CHUNK - MOTION)) : end]


def _contrast(frame: Pixels, image: NDArray[np.uint8], part: Part) -> float:
    """Difference of inside and outside, projected on that of the image."""
    reference, shown = (each[part.inside].mean(0) - each[part.outside].mean(0) for each in (image, frame))
    return float(shown @ reference / max(reference @ reference, 1))


def _align(frame: Pixels, image: Pixels, face: Face) -> Pixels:
    """The frame, shifted by whole pixels so that the upper face fits that of the image best."""
    reach = max(1, round(_MAX_SHIFT * face.unit))
    mask = face.weights(UPPER_FACE, *image.shape[:2]) > 0.5
    shifts = list(itertools.product(range(-reach, reach + 1), repeat=2))
    errors = [np.square(np.roll(frame, shift, (0, 1))[mask] - image[mask]).sum() for shift in shifts]
    return np.roll(frame, shifts[int(np.argmin(errors))], (0, 1))


def _around(mask: Mask, face: Face) -> Mask:
    """The pixels next to a mask."""
    return binary_dilation(mask, iterations=max(1, round(0.1 * face.unit))) & ~mask


def _opposite(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """A color that differs clearly in every channel."""
    red, green, blue = ((value + 128) % 256 for value in color)
    return red, green, blue
