"""`python -m benchmarks.quality.seams`: whether chunk boundaries are noticeable in generated videos.

Generates videos of ten chunks from clips never seen in training and compares frames around the seams with all other
frames: correlation and mean distance of the mouth opening to the expected one, distance of the mean color outside
mouths to the input image (0..255), and its step between latent frames. The noise of a difference is its standard
deviation over random positions of the seams. Written to benchmarks/results/seams.json. The exit status is 1 if a
difference exceeds its limit. Shapes: F frames, T latent frames, H x W pixels, C colors.
"""

from collections.abc import Sequence

from benchmarks.report import cli_args
from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.quality.seams", __doc__)
    parser.add_argument("--clips", type=whole_number(), default=4, help="number of videos")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "seams.json", help="JSON file to write")
    cli_args.add_arguments(parser)
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.quality.seams", make_parser)

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import CHUNK, MOTION, Clip, Row, draw_clip
from benchmarks.quality.face_reader import Video, outside_mouths
from benchmarks.quality.metrics import read_mouths
from benchmarks.quality.sync_metrics import correlation
from benchmarks.report.environment import environment, write_result
from training.mouths import MouthCurve
from training.scenes import face_boxes
from wan.sampling.options import SamplingOptions
from wan.types import TEMPORAL_STRIDE

logger = logging.getLogger(__name__)

ROW = Row(name="one, 10 chunks", persons=1, num_chunks=10)
RADIUS = 3
"""Frames before and after a seam that belong to it."""
MAX_DEVIATIONS = 3.0
"""Limit of a difference in standard deviations of its noise."""
MAX_COLOR_STEP = 1.0
"""Invisible step of the mean color, 0..255."""
_NUM_SAMPLES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Signals of one video without its first frame, the input image.

    Per frame: measured and expected mouth `opening`, and `color`, the distance of the mean color to the input image.
    Per latent frame: `step`, the distance of the mean color to the previous latent frame. Colors are in 0..255.
    """

    opening: MouthCurve
    expected: MouthCurve
    color: MouthCurve
    step: MouthCurve


def measure_signals(clip: Clip, video: Video) -> Signals:
    """Signals of a clip with one person."""
    (reading,) = read_mouths(clip, video)
    mask_HW = outside_mouths(face_boxes(clip.scene), *video.shape[1:3])
    image_C, *colors = video[:, mask_HW].mean(axis=1)
    colors_FC = np.stack(colors)
    latents_TC = colors_FC.reshape(-1, TEMPORAL_STRIDE, 3).mean(axis=1)
    steps = _rms(np.diff(latents_TC, axis=0, prepend=latents_TC[:1]))
    return Signals(opening=reading.measured, expected=reading.own, color=_rms(colors_FC - image_C), step=steps)


def _rms(colors_FC: NDArray[np.float64]) -> MouthCurve:
    return np.sqrt(np.square(colors_FC).mean(axis=1))


def seams(frames: int) -> NDArray[np.int64]:
    """First new frame of every chunk but the first, in a video of `frames` frames without its first one."""
    return np.arange(CHUNK - 1, frames, CHUNK - MOTION)


Statistic = Callable[[list[NDArray[np.bool_]]], float]
"""Value over all videos, given a mask of the frames of each."""
Positions = list[NDArray[np.int64]]
"""Frame indices, per video."""


def compare(statistic: Statistic, lengths: list[int], positions: Positions, radius: int) -> dict[str, float]:
    """A statistic of the frames within `radius` of the positions and of all others, and the noise of the difference."""

    def evaluate(positions: Positions) -> tuple[float, float]:
        masks = [_mask_near(each, length, radius) for each, length in zip(positions, lengths, strict=True)]
        return statistic(masks), statistic([~mask for mask in masks])

    def random_positions() -> Positions:
        return [rng.choice(length, len(each), replace=False) for each, length in zip(positions, lengths, strict=True)]

    rng = np.random.default_rng(0)
    at, elsewhere = evaluate(positions)
    samples = [evaluate(random_positions()) for _ in range(_NUM_SAMPLES)]
    noise = float(np.std([a - b for a, b in samples]))
    return {"at_seams": at, "elsewhere": elsewhere, "noise": noise, "deviations": (at - elsewhere) / noise}


def _mask_near(positions: NDArray[np.int64], length: int, radius: int) -> NDArray[np.bool_]:
    """Frames from `radius` before a position (inclusive) to `radius` after it (exclusive), at least the position."""
    mask = np.zeros(length, bool)
    for position in positions:
        mask[max(0, position - radius) : position + max(1, radius)] = True
    return mask


def compare_seams(videos: list[Signals]) -> dict[str, dict[str, float]]:
    """Seams compared with other frames, by `correlation`, `distance`, `color` and color `step`."""

    def select(name: str, masks: list[NDArray[np.bool_]]) -> MouthCurve:
        return np.concatenate([getattr(video, name)[mask] for video, mask in zip(videos, masks, strict=True)])

    def distance(masks: list[NDArray[np.bool_]]) -> float:
        return float(np.abs(select("opening", masks) - select("expected", masks)).mean())

    frames, latents = [len(video.opening) for video in videos], [len(video.step) for video in videos]
    by_frame = (frames, [seams(length) for length in frames], RADIUS)
    by_latent = (latents, [seams(length) // TEMPORAL_STRIDE for length in frames], 0)
    return {
        "correlation": compare(lambda m: correlation(select("opening", m), select("expected", m)), *by_frame),
        "distance": compare(distance, *by_frame),
        "color": compare(lambda m: float(select("color", m).mean()), *by_frame),
        "step": compare(lambda m: float(select("step", m).mean()), *by_latent),
    }


def measure(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, dict[str, float]]:
    """Generate `clips` videos and compare their seams."""
    drawn = (draw_clip(ROW, seed, index) for index in range(clips))
    return compare_seams([measure_signals(clip, puppet.generate(clip, options).frames) for clip in drawn])


def over_limit(comparisons: dict[str, dict[str, float]]) -> list[str]:
    """Names of the comparisons that exceed their limit."""
    signs = {"correlation": -1, "distance": 1, "color": 1}
    failed = [name for name, sign in signs.items() if sign * comparisons[name]["deviations"] > MAX_DEVIATIONS]
    return failed + ["step"] * (comparisons["step"]["at_seams"] > MAX_COLOR_STEP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    puppet = cli_args.load_puppet(args)
    comparisons = measure(puppet, cli_args.sampling_options(puppet, args), args.clips, args.seed)
    document = {**environment("benchmarks.quality.seams"), "clips": args.clips, "comparisons": comparisons}
    write_result(args.output, document)
    for name, values in comparisons.items():
        logger.info("%s: %s", name, ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    failed = over_limit(comparisons)
    for name in failed:
        logger.error("%s at seams exceeds its limit", name)
    return 1 if failed else 0
