"""Effect of every conditioning input: clips regenerated without it, and prompts whose effect is visible.

Relative change: RMS difference of two videos, divided by the RMS difference of the video from its first frame.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import Clip, Row, draw_clip, with_bare_faces
from benchmarks.quality.face_reader import Video, brow_darkness, eye_whiteness, mouth_corners, wall_color
from benchmarks.quality.metrics import read_mouths, to_json_value
from benchmarks.quality.sync_metrics import own_correlation
from src.media.persons.boxes import Box
from training.editions import EDITION
from training.mouths import MouthCurve
from training.scenes import face_boxes
from wan.sampling.options import SamplingOptions

ABLATION_ROW = Row(name="two para", persons=2)
PROMPT_ROW = Row(name="one", persons=1)
NEUTRAL_PROMPT = "A person talking."
MINIMAL_PROMPT = "."
"""Shortest prompt that a request may have."""
_WARM_UP_FRAMES = 10
"""Frames until the effect of a prompt is fully visible."""

FaceMeasure = Callable[[Video, Box], MouthCurve]


def _whiteness_of_wall(video: Video, box: Box) -> MouthCurve:
    return wall_color(video, box).mean(-1)


def _share_of_wall(channel: int) -> FaceMeasure:
    """The share of a color channel in the color of the wall."""

    def measure(video: Video, box: Box) -> MouthCurve:
        color_F3 = wall_color(video, box)
        return color_F3[:, channel] / np.maximum(color_F3.sum(-1), 1)

    return measure


MEASURES: dict[str, FaceMeasure] = {
    "eyes closed": eye_whiteness,
    "eyebrows raised": brow_darkness,
    "smiling": mouth_corners,
    "red background": _share_of_wall(0),
    "green background": _share_of_wall(1),
    "blue background": _share_of_wall(2),
    "at night": _whiteness_of_wall,
}
"""What each phrase changes."""


def ablate_conditioning(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, Any]:
    """Relative change and own correlation without the prompt, image tokens or audio, and with another seed."""
    drawn = [draw_clip(ABLATION_ROW, seed, index) for index in range(clips)]
    without_prompt = [replace(clip, scene=replace(clip.scene, prompt=MINIMAL_PROMPT)) for clip in drawn]
    silent = [replace(clip, waveforms=tuple(map(np.zeros_like, clip.waveforms))) for clip in drawn]

    def generate(clips: Sequence[Clip], options: SamplingOptions = options) -> list[Video]:
        return [puppet.generate(clip, options).frames for clip in clips]

    reference = generate(drawn)
    videos = {"nothing": reference, "prompt": generate(without_prompt)}
    with puppet.without_image_tokens():
        videos["image tokens"] = generate(drawn)
    videos["audio"] = generate(silent)
    videos["same seed"] = generate(drawn, replace(options, seed=options.seed + 1))
    return {name: _effect(drawn, ablated, reference) for name, ablated in videos.items()}


def measure_prompts(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, Any]:
    """What each phrase changes, with it and with a neutral prompt, of the model and of the renderer."""
    neutral = [with_bare_faces(draw_clip(PROMPT_ROW, seed, index), NEUTRAL_PROMPT) for index in range(clips)]
    measures = {phrase: measure for phrase, measure in MEASURES.items() if phrase in EDITION.phrases}
    drawn = {"neutral": neutral} | {
        phrase: [with_bare_faces(clip, f"A person talking, {phrase}.", phrase) for clip in neutral]
        for phrase in measures
    }
    videos = {
        "model": {name: [puppet.generate(clip, options).frames for clip in group] for name, group in drawn.items()},
        "truth": {name: [clip.ground_truth() for clip in group] for name, group in drawn.items()},
    }
    return {
        name: {
            source: {prompt: _steady_mean(neutral, by_prompt[prompt], measure) for prompt in ("neutral", name)}
            for source, by_prompt in videos.items()
        }
        for name, measure in measures.items()
    }


def _effect(clips: Sequence[Clip], videos: Sequence[Video], reference: Sequence[Video]) -> dict[str, Any]:
    changes = [
        _rms(video, base) / max(_rms(base, base[:1]), 1e-6) for video, base in zip(videos, reference, strict=True)
    ]
    readings = [reading for clip, video in zip(clips, videos, strict=True) for reading in read_mouths(clip, video)]
    return {"relative_change": float(np.mean(changes)), "own": to_json_value(own_correlation(readings))}


def _rms(a: Video, b: Video) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def _steady_mean(clips: Sequence[Clip], videos: Sequence[Video], measure: FaceMeasure) -> float:
    """Mean over clips and faces of the median over frames after the warm-up; the median ignores blinks."""
    medians = [
        np.median(measure(video, box)[_WARM_UP_FRAMES:])
        for clip, video in zip(clips, videos, strict=True)
        for box in face_boxes(clip.scene)
    ]
    return float(np.mean(medians))
