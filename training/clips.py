"""One example to learn from: people, what they say and when, where they are, and what is known beforehand.

Shapes: N persons, F frames, C channels, H x W pixels, h x w latent rows and columns.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from src.media.rates import SAMPLES_PER_FRAME
from training.mouths import Track, opening_track, shape_track
from training.scenes import Scene, draw_scene, face_boxes, render
from training.voices import Sound, Voice, disturb
from wan.conditioning import speakers
from wan.conditioning.image import Crop
from wan.conditioning.speakers import BoxRegion
from wan.types import SPATIAL_STRIDE

Known = Literal["picture", "motion", "source"]
"""What a chunk continues from: a picture (the first chunk), the last frames of the chunk before (MultiTalk), or a
picture and, within the noise, the last frames (InfiniteTalk)."""

MOTION_FRAMES = 9
_GONE = 200
"""Frames at most that a scene has lasted before a clip that is not its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """`video` F x H x W x 3; `condition` its known first frames (one or nine), which for "source" need not be in it;
    `clean` how many first frames of the video the noise spares (only for "source").

    `sounds` are whole padded tracks, of which the clip shows the frames from `start`.
    """

    scene: Scene
    clean: int
    video: NDArray[np.uint8]
    condition: NDArray[np.uint8]
    sounds: tuple[Sound, ...]
    start: int
    masks_3hw: Tensor
    mouths_hw: Tensor


def draw_clip(
    rng: np.random.Generator, voices: list[Voice], persons: int, size: tuple[int, int], frames: int, known: Known
) -> Clip:
    """A new clip; where it begins in the sounds, and who is silent in them, is drawn as well."""
    heard, clean = _draw_sounds(rng, voices, persons)
    length = len(heard[0]) // SAMPLES_PER_FRAME
    start = int(rng.integers(0, max(1, length - frames + 4))) if rng.random() < 0.8 else 0
    scene = draw_scene(rng, persons, size, frames + _GONE, "train")
    first = known == "picture" or (known == "source" and rng.random() < 0.3)
    gone = 0 if first else int(rng.integers(24, _GONE))
    openings, shapes = ([_piece(of(sound), start, frames) for sound in clean] for of in (opening_track, shape_track))
    video = render(scene, openings, shapes, gone)
    if known != "motion":
        rest = [np.array([rng.uniform(0, 0.7) if rng.random() < 0.25 else 0.0]) for _ in range(persons)]
        picture = render(scene, rest, [np.zeros(1)] * persons, 0)
        if first:
            video = np.concatenate((picture, video[1:]))
    masks, boxed = _masks(rng, scene)
    if boxed and rng.random() < 0.5:  # which of the two is called the first is the caller's choice
        heard, masks = heard[::-1], masks[[1, 0, 2]]
    return Clip(
        scene=scene,
        clean=(1 if first else MOTION_FRAMES) if known == "source" else 0,
        video=video,
        condition=video[:MOTION_FRAMES] if known == "motion" else picture,
        sounds=tuple(heard),
        start=start,
        masks_3hw=masks,
        mouths_hw=_mouth_cells(scene),
    )


def _draw_sounds(rng: np.random.Generator, voices: list[Voice], persons: int) -> tuple[list[Sound], list[Sound]]:
    """Padded tracks of equal length as heard, and the same without noise; with two persons often one is silent."""
    frames = int(rng.integers(50, 180))
    manner = rng.choice(["together", "turns", "listening"]) if persons == 2 else "alone"
    spans = {
        "alone": [(0, frames)],
        "together": [(0, frames), (0, int(frames * rng.uniform(0.5, 1)))],
        "turns": [(0, frames // 2), (frames // 2, frames)],
        "listening": [(0, frames), (0, 0)],
    }[str(manner)]
    if rng.random() < 0.5:
        spans = spans[::-1]
    heard, clean = zip(*(_padded(rng, voices, frames, *span) for span in spans), strict=True)
    return list(heard), list(clean)


def _padded(rng: np.random.Generator, voices: list[Voice], frames: int, first: int, last: int) -> tuple[Sound, Sound]:
    """A piece of a voice in frames [first, last) of a silent track; of speech, now and then less than that."""
    voice = voices[rng.integers(len(voices))]
    last = min(last, first + len(voice.clean) // SAMPLES_PER_FRAME)
    begin = int(rng.integers(0, len(voice.clean) // SAMPLES_PER_FRAME - (last - first) + 1)) * SAMPLES_PER_FRAME
    piece = slice(begin, begin + (last - first) * SAMPLES_PER_FRAME)
    around = (first * SAMPLES_PER_FRAME, (frames - last) * SAMPLES_PER_FRAME)
    clean = voice.clean[piece]
    if not clean.any():
        return np.zeros(frames * SAMPLES_PER_FRAME, np.float32), np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
    return np.pad(disturb(rng, clean), around), np.pad(clean, around)


def _piece(track: Track, start: int, frames: int) -> Track:
    """Frames from `start`; past the end the track is read backwards, as the pipeline reads the sound."""
    places = np.arange(start, start + frames) % (2 * len(track))
    return track[np.where(places < len(track), places, 2 * len(track) - 1 - places)]


def _masks(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, bool]:
    """Who is where on the latent grid, and whether boxes around the persons said so rather than halves."""
    height, width = scene.size
    if len(scene.people) == 1:
        return torch.ones(3, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE), False
    crop = Crop(scaled=scene.size, size=scene.size, top=0, left=0)
    if height <= width and rng.random() < 0.6:
        return speakers.latent_masks(height, width, None, crop), False
    for slack in (0.2, 0.1, 0.0, -0.05, -0.1):
        first, second = (_around(rng, box, scene.size, slack) for box in face_boxes(scene))
        with contextlib.suppress(speakers.SpeakerError):  # the background needs a token as well
            return speakers.latent_masks(height, width, (first, second), crop), True
    raise AssertionError(f"the faces fill the picture: {face_boxes(scene)}")


def _around(rng: np.random.Generator, face: BoxRegion, size: tuple[int, int], slack: float) -> BoxRegion:
    """A box as somebody would draw it around a face, each side up to `slack` of its height away from it."""
    more = [int(rng.uniform(min(0, slack), max(0, slack)) * (face.bottom - face.top)) for _ in range(4)]
    return BoxRegion(
        top=max(0, face.top - more[0]),
        left=max(0, face.left - more[1]),
        bottom=min(size[0], face.bottom + more[2]),
        right=min(size[1], face.right + more[3]),
    )


def _mouth_cells(scene: Scene) -> Tensor:
    """Share of every latent cell that lies around a mouth, h x w."""
    height, width = scene.size
    pixels = torch.zeros(1, height, width)
    for place, person in zip(scene.placements, scene.people, strict=True):
        x, y, unit = place.x, place.y + person.mouth_y * place.unit, place.unit
        top, bottom, left, right = y - 0.42 * unit, y + 0.42 * unit, x - 0.55 * unit, x + 0.55 * unit
        pixels[:, max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1] = 1
    return functional.avg_pool2d(pixels, SPATIAL_STRIDE)[0]
