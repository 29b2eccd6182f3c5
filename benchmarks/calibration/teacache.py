"""`python -m benchmarks.calibration.teacache [DIR]`: fit the rescaling polynomial of TeaCache (Liu et al. 2024).

The polynomial of degree 4 predicts the relative change of the blocks' residual between two steps from the relative
change of the timestep modulation. Both are recorded while clips are sampled without a cache. Prints JSON with the
coefficients, highest power first, for wan/configs/models.py.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import WEIGHTS
from src.command_line import Parser, existing_folder, launch, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.calibration.teacache", __doc__)
    parser.add_argument(
        "folder", type=existing_folder, nargs="?", default=WEIGHTS, metavar="DIR", help="folder of the weights"
    )
    parser.add_argument("--clips", type=whole_number(), default=4, help="clips per schedule")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.calibration.teacache", make_parser)

import itertools
import json
import sys

import numpy as np
from torch import Tensor

from benchmarks.baseline.puppet import Puppet
from benchmarks.calibration.residual_recorder import StepRecord, record_residuals
from benchmarks.quality.clips import ROWS, draw_clip

_DEGREE = 4
_SCHEDULES = ((25, 5.0), (40, 7.0))
"""Numbers of denoising steps and timestep shifts."""


def relative_changes(records: Sequence[StepRecord]) -> list[tuple[float, float]]:
    """Relative changes from step to step of the timestep modulation and of the residual."""
    return [
        (
            _relative_change(later.timestep_proj, earlier.timestep_proj),
            _relative_change(later.residual_BLD, earlier.residual_BLD),
        )
        for earlier, later in itertools.pairwise(records)
    ]


def _relative_change(later: Tensor, earlier: Tensor) -> float:
    return ((later - earlier).abs().mean() / earlier.abs().mean()).item()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    puppet = Puppet(args.folder)
    row = next(row for row in ROWS if row.name == "two para")
    changes: list[tuple[float, float]] = []
    for steps, shift in _SCHEDULES:
        # Without guidance each step evaluates the blocks once.
        options = puppet.options(
            "fast", sampling_steps=steps, shift=shift, text_guide_scale=1.0, audio_guide_scale=1.0, teacache_thresh=0.0
        )
        for index in range(args.clips):
            with record_residuals(puppet.pipeline.models.transformer) as records:
                puppet.generate(draw_clip(row, 1000, index), options)
            changes += relative_changes(records)
    embedding, residual = np.array(changes).T
    coefficients = np.polyfit(embedding, residual, _DEGREE)
    error = np.sqrt(np.mean((np.polyval(coefficients, embedding) - residual) ** 2))
    summary = {"coefficients": [float(f"{c:.6g}") for c in coefficients], "error": round(float(error), 4)}
    sys.stdout.write(json.dumps(summary | {"changes": [round(float(residual.mean()), 4), len(changes)]}) + "\n")
