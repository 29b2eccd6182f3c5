"""`python -m benchmarks.calibration.teacache [DIR]`: fit the rescaling polynomial of TeaCache (Liu et al. 2024).

The polynomial of degree 4 predicts the relative change of the blocks' residual between two steps from the relative
change of the timestep modulation. Both are recorded while clips are sampled without a cache. Prints JSON with the
coefficients, highest power first, for wan/configs/models.py.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.baseline.puppet import WEIGHTS, Puppet
from benchmarks.calibration.residual_recorder import StepRecord, record_residuals
from benchmarks.quality.clips import ROWS, draw_clip
from benchmarks.report.parser import make_parser

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


def main() -> None:
    """Run the command."""
    parser = make_parser("benchmarks.calibration.teacache", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=WEIGHTS, metavar="DIR", help="folder of the weights")
    parser.add_argument("--clips", type=int, default=4, help="clips per schedule")
    args = parser.parse_args()
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


if __name__ == "__main__":
    main()
