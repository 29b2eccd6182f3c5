"""Training clips: a rendered video, its waveforms, person masks and conditioning frames.

Shapes: N persons, F frames, C channels, H x W pixels, h x w latent rows and columns.
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from src.media.persons.boxes import Box
from src.media.rates import SAMPLES_PER_FRAME
from training.editions import EDITION
from training.mouths import MouthCurve, opening_curve, shape_curve
from training.scenes import Scene, face_boxes, render, render_still, sample_scene
from training.voices import Voice, Waveform, add_noise
from wan.conditioning import speakers
from wan.conditioning.image import Crop
from wan.types import SPATIAL_STRIDE

ConditionKind = Literal["image", "motion", "infinitetalk"]
"""What a chunk is conditioned on: an image (first chunk), the last frames of the previous chunk (MultiTalk), or an
image and, as clean latents within the noise, the last frames (InfiniteTalk)."""

MOTION_FRAMES = 9
_MAX_ELAPSED = 200
"""Maximum number of frames of a scene before the clip starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """`video`: F x H x W x 3. `condition`: its first one or nine frames; for "infinitetalk" an image of the scene.
    `num_clean`: leading frames of the video that get no noise (only for "infinitetalk").

    `waveforms` are as long as a whole request; the clip starts at their frame `start`.
    """

    scene: Scene
    num_clean: int
    video: NDArray[np.uint8]
    condition: NDArray[np.uint8]
    waveforms: tuple[Waveform, ...]
    start: int
    masks_3hw: Tensor
    mouths_hw: Tensor


def sample_clip(
    rng: np.random.Generator, voices: list[Voice], persons: int, size: tuple[int, int], frames: int, kind: ConditionKind
) -> Clip:
    """Sample a clip, its start within the waveforms, and who is silent."""
    noisy, clean = _sample_waveforms(rng, voices, persons, int(rng.integers(50, 180)))
    length = len(noisy[0]) // SAMPLES_PER_FRAME
    start = int(rng.integers(0, max(1, length - frames + 4))) if rng.random() < 0.8 else 0
    scene = sample_scene(rng, persons, size, frames + _MAX_ELAPSED, "train", EDITION.drawing)
    is_first = kind == "image" or (kind == "infinitetalk" and rng.random() < 0.3)
    elapsed = 0 if is_first else int(rng.integers(24, _MAX_ELAPSED))
    openings, shapes = (
        [_mirrored_slice(curve(each), start, frames) for each in clean] for curve in (opening_curve, shape_curve)
    )
    video = render(scene, openings, shapes, elapsed)
    if kind != "motion":
        resting = [np.array([rng.uniform(0, 0.7) if rng.random() < 0.25 else 0.0]) for _ in range(persons)]
        image = render(scene, resting, [np.zeros(1)] * persons, 0)
        if is_first:
            video = np.concatenate((image, video[1:]))
    masks, has_boxes = _sample_masks(rng, scene)
    if has_boxes and rng.random() < 0.5:  # with boxes the order of the persons is arbitrary
        noisy, masks = noisy[::-1], masks[[1, 0, 2]]
    return Clip(
        scene=scene,
        num_clean=(1 if is_first else MOTION_FRAMES) if kind == "infinitetalk" else 0,
        video=video,
        condition=video[:MOTION_FRAMES] if kind == "motion" else image,
        waveforms=tuple(noisy),
        start=start,
        masks_3hw=masks,
        mouths_hw=_mouth_weights(scene),
    )


def sample_long_clip(
    rng: np.random.Generator, voices: list[Voice], persons: int, size: tuple[int, int], frames: int
) -> Clip:
    """A clip of several chunks, from its first frame on, whose persons keep their places.

    The renderer's frames are then what a model should generate: nothing else in a scene is left to chance.
    """
    noisy, clean = _sample_waveforms(rng, voices, persons, frames)
    scene = sample_scene(rng, persons, size, frames, "train", EDITION.drawing)
    at_rest = tuple(replace(each, sway=(0, 0, 0), tilt=(0, 0, 0), blinks=()) for each in scene.placements)
    scene = replace(scene, placements=at_rest)
    video = render(scene, [opening_curve(each) for each in clean], [shape_curve(each) for each in clean])
    image = render_still(scene)[None]
    return Clip(
        scene=scene,
        num_clean=0,
        video=np.concatenate((image, video[1:])),
        condition=image,
        waveforms=tuple(noisy),
        start=0,
        masks_3hw=_sample_masks(rng, scene)[0],
        mouths_hw=_mouth_weights(scene),
    )


def _sample_waveforms(
    rng: np.random.Generator, voices: list[Voice], persons: int, frames: int
) -> tuple[list[Waveform], list[Waveform]]:
    """Noisy and clean waveforms of `frames` frames, one per person; one of two persons is often silent."""
    mode = rng.choice(["together", "turns", "listening"]) if persons == 2 else "alone"
    spans = {
        "alone": [(0, frames)],
        "together": [(0, frames), (0, int(frames * rng.uniform(0.5, 1)))],
        "turns": [(0, frames // 2), (frames // 2, frames)],
        "listening": [(0, frames), (0, 0)],
    }[str(mode)]
    if rng.random() < 0.5:
        spans = spans[::-1]
    noisy, clean = zip(*(_sample_padded(rng, voices, frames, *span) for span in spans), strict=True)
    return list(noisy), list(clean)


def _sample_padded(
    rng: np.random.Generator, voices: list[Voice], frames: int, first: int, last: int
) -> tuple[Waveform, Waveform]:
    """A random part of a voice in frames [first, last) of silence, noisy and clean; a short voice ends earlier."""
    voice = voices[rng.integers(len(voices))]
    last = min(last, first + len(voice.clean) // SAMPLES_PER_FRAME)
    offset = int(rng.integers(0, len(voice.clean) // SAMPLES_PER_FRAME - (last - first) + 1)) * SAMPLES_PER_FRAME
    part = slice(offset, offset + (last - first) * SAMPLES_PER_FRAME)
    padding = (first * SAMPLES_PER_FRAME, (frames - last) * SAMPLES_PER_FRAME)
    clean = voice.clean[part]
    if not clean.any():
        return np.zeros(frames * SAMPLES_PER_FRAME, np.float32), np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
    return np.pad(add_noise(rng, clean), padding), np.pad(clean, padding)


def _mirrored_slice(curve: MouthCurve, start: int, frames: int) -> MouthCurve:
    """Frames from `start`, mirrored past the end, as the pipeline does with speech embeddings."""
    indices = np.arange(start, start + frames) % (2 * len(curve))
    return curve[np.where(indices < len(curve), indices, 2 * len(curve) - 1 - indices)]


def _sample_masks(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, bool]:
    """Masks of persons and background on the latent grid, and whether they come from boxes instead of halves."""
    height, width = scene.size
    if len(scene.characters) == 1:
        return torch.ones(3, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE), False
    crop = Crop(scaled=scene.size, size=scene.size, top=0, left=0)
    if height <= width and rng.random() < 0.6:
        return speakers.latent_masks(height, width, None, crop), False
    for slack in (0.2, 0.1, 0.0, -0.05, -0.1):
        first, second = (_jitter_box(rng, box, scene.size, slack).to_mask(height, width) for box in face_boxes(scene))
        with contextlib.suppress(speakers.SpeakerError):  # at least one token must remain for the background
            return speakers.latent_masks(height, width, (torch.from_numpy(first), torch.from_numpy(second)), crop), True
    raise AssertionError(f"the faces fill the image: {face_boxes(scene)}")


def _jitter_box(rng: np.random.Generator, face: Box, size: tuple[int, int], slack: float) -> Box:
    """A face box as a user would draw it: each side moved by up to `slack` of the height."""
    offsets = [int(rng.uniform(min(0, slack), max(0, slack)) * (face.bottom - face.top)) for _ in range(4)]
    return Box(
        top=max(0, face.top - offsets[0]),
        left=max(0, face.left - offsets[1]),
        bottom=min(size[0], face.bottom + offsets[2]),
        right=min(size[1], face.right + offsets[3]),
    )


def _mouth_weights(scene: Scene) -> Tensor:
    """Fraction of every latent cell that is near a mouth, h x w."""
    height, width = scene.size
    pixels = torch.zeros(1, height, width)
    for placement, person in zip(scene.placements, scene.characters, strict=True):
        x, y, unit = placement.x, placement.y + person.mouth_y * placement.unit, placement.unit
        top, bottom, left, right = y - 0.42 * unit, y + 0.42 * unit, x - 0.55 * unit, x + 0.55 * unit
        pixels[:, max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1] = 1
    return functional.avg_pool2d(pixels, SPATIAL_STRIDE)[0]
