"""`python -m benchmarks.quality.seams`: whether anything tells where one chunk ends and the next begins.

Videos of ten chunks, with clips never seen in training. What is compared between the frames around the seams and all
others: how well mouths correlate with what their voices want, how far they are from it, how far the mean colour of
everything but the mouths is from the picture's, and how far it moves from one latent frame to the next. The noise of a
difference is its deviation when as many seams are put anywhere else. F frames, T latent frames, H x W, C colours.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import CHUNK, MOTION, Clip, Row, draw_clip
from benchmarks.quality.face_reader import Video, mouth_free
from benchmarks.quality.metrics import read
from benchmarks.quality.sync_metrics import correlation
from benchmarks.report import cli_args
from benchmarks.report.environment import RESULTS, environment
from training.mouths import Track
from training.scenes import face_boxes
from wan.sampling.options import SamplingOptions
from wan.types import TEMPORAL_STRIDE

logger = logging.getLogger(__name__)

ROW = Row(name="one, 10 chunks", persons=1, chunks=10)
AROUND = 3
"""Frames before and after a seam that count as being at it."""
LIMIT = 3.0
"""Deviations of the noise within which seams must stay."""
VISIBLE = 1.0
"""A step of the mean colour, of 255, that nobody sees."""
_DRAWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Of one video, without its first frame, which is the picture.

    By frame: `mouth` is its opening, `voice` what the voice wants, `color` the mean colour's distance from the
    picture's, 0..255. By latent frame: `step`, the mean colour's distance from that of the latent frame before.
    """

    mouth: Track
    voice: Track
    color: Track
    step: Track


def watch(clip: Clip, video: Video) -> Watched:
    """What is compared, of a clip with one person."""
    (reading,) = read(clip, video)
    free_HW = mouth_free(face_boxes(clip.scene), *video.shape[1:3])
    picture_C, *colors = video[:, free_HW].mean(axis=1)
    colors_FC = np.stack(colors)
    latents_TC = colors_FC.reshape(-1, TEMPORAL_STRIDE, 3).mean(axis=1)
    steps = _length(np.diff(latents_TC, axis=0, prepend=latents_TC[:1]))
    return Watched(mouth=reading.read, voice=reading.own, color=_length(colors_FC - picture_C), step=steps)


def _length(colors_FC: NDArray[np.float64]) -> Track:
    return np.sqrt(np.square(colors_FC).mean(axis=1))


def seams(frames: int) -> NDArray[np.int64]:
    """The first fresh frame of every chunk but the first; frames are counted without the video's first one."""
    return np.arange(CHUNK - 1, frames, CHUNK - MOTION)


Figure = Callable[[list[NDArray[np.bool_]]], float]
"""Of all videos, given which of the frames of each count."""


def compare(figure: Figure, lengths: list[int], places: list[NDArray[np.int64]], around: int) -> dict[str, float]:
    """A figure of the frames at certain places and of all others, and the difference in deviations of its noise.

    A frame is at a place from `around` frames before it to `around` after, itself not counted twice.
    """

    def difference(places: list[NDArray[np.int64]]) -> tuple[float, float]:
        marks = [_near(each, length, around) for each, length in zip(places, lengths, strict=True)]
        return figure(marks), figure([~mark for mark in marks])

    rng = np.random.default_rng(0)
    at, elsewhere = difference(places)
    drawn = [
        difference([rng.choice(length, len(each), replace=False) for each, length in zip(places, lengths, strict=True)])
        for _ in range(_DRAWS)
    ]
    noise = float(np.std([a - b for a, b in drawn]))
    return {"at_seams": at, "elsewhere": elsewhere, "noise": noise, "deviations": (at - elsewhere) / noise}


def _near(places: NDArray[np.int64], length: int, around: int) -> NDArray[np.bool_]:
    chosen = np.zeros(length, bool)
    for place in places:
        chosen[max(0, place - around) : place + max(1, around)] = True
    return chosen


def compared(videos: list[Watched]) -> dict[str, dict[str, float]]:
    """The comparisons: `correlation` and `distance` of mouth and voice, `color` and its `step`."""

    def chosen(name: str, marks: list[NDArray[np.bool_]]) -> Track:
        return np.concatenate([getattr(video, name)[mark] for video, mark in zip(videos, marks, strict=True)])

    frames, latents = [len(video.mouth) for video in videos], [len(video.step) for video in videos]
    by_frame = (frames, [seams(length) for length in frames], AROUND)
    by_latent = (latents, [seams(length) // TEMPORAL_STRIDE for length in frames], 0)
    return {
        "correlation": compare(lambda m: correlation(chosen("mouth", m), chosen("voice", m)), *by_frame),
        "distance": compare(lambda m: float(np.abs(chosen("mouth", m) - chosen("voice", m)).mean()), *by_frame),
        "colour": compare(lambda m: float(chosen("colour", m).mean()), *by_frame),
        "step": compare(lambda m: float(chosen("step", m).mean()), *by_latent),
    }


def measure(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, dict[str, float]]:
    """The comparisons over a number of videos."""
    drawn = (draw_clip(ROW, seed, index) for index in range(clips))
    return compared([watch(clip, puppet.take(clip, options).frames) for clip in drawn])


def beyond(figures: dict[str, dict[str, float]]) -> list[str]:
    """What is worse at seams than the noise explains, and a step of the colours that might be seen."""
    signs = {"correlation": -1, "distance": 1, "colour": 1}
    found = [name for name, sign in signs.items() if sign * figures[name]["deviations"] > LIMIT]
    return found + ["step"] * (figures["step"]["at_seams"] > VISIBLE)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.seams", description=__doc__)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS / "seams.json")
    cli_args.add_arguments(parser)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    puppet = cli_args.load(given)
    figures = measure(puppet, cli_args.options(puppet, given), given.clips, given.seed)
    document: dict[str, Any] = {**environment("benchmarks.quality.seams"), "clips": given.clips, "figures": figures}
    given.output.write_text(json.dumps(document, indent=2) + "\n")
    for name, each in figures.items():
        logger.info("%s: %s", name, ", ".join(f"{key} {value:.4f}" for key, value in each.items()))
    for name in beyond(figures):
        logger.error("%s at seams is beyond its limit", name)
    return 1 if beyond(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
