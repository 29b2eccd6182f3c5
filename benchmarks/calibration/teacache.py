"""`python -m benchmarks.calibration.teacache [DIR]`: fit the polynomial that TeaCache estimates changes with.

Liu et al. 2024: from step to step, the relative change of what the time embedding gives the blocks foretells the
relative change of what the blocks add. Both are recorded while clips are sampled with every step computed, and a
polynomial of fourth order is fitted. The result is printed, highest power first, for the model's configuration.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.baseline.puppet import WEIGHTS, Puppet
from benchmarks.calibration.residual_recorder import Evaluation, recording
from benchmarks.quality.clips import ROWS, draw_clip

_ORDER = 4
_SAMPLINGS = ((25, 5.0), (40, 7.0))
"""Steps and shift."""


def changes(record: Sequence[Evaluation]) -> list[tuple[float, float]]:
    """Relative changes from step to step, of the time projection and of what the blocks add."""
    return [
        (_relative(later.timestep_proj, earlier.timestep_proj), _relative(later.added_BLD, earlier.added_BLD))
        for earlier, later in itertools.pairwise(record)
    ]


def _relative(later: Tensor, earlier: Tensor) -> float:
    return ((later - earlier).abs().mean() / earlier.abs().mean()).item()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration.teacache", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=WEIGHTS, metavar="DIR")
    parser.add_argument("--clips", type=int, default=4, help="a way of sampling")
    given = parser.parse_args()
    puppet = Puppet(given.folder)
    row = next(row for row in ROWS if row.name == "two para")
    found: list[tuple[float, float]] = []
    for steps, shift in _SAMPLINGS:
        # Without guidance each step is one evaluation.
        once = puppet.options(
            "fast", sampling_steps=steps, shift=shift, text_guide_scale=1.0, audio_guide_scale=1.0, teacache_thresh=0.0
        )
        for index in range(given.clips):
            with recording(puppet.pipeline.models.transformer) as record:
                puppet.take(draw_clip(row, 1000, index), once)
            found += changes(record)
    embedding, residual = np.array(found).T
    coefficients = np.polyfit(embedding, residual, _ORDER)
    error = np.sqrt(np.mean((np.polyval(coefficients, embedding) - residual) ** 2))
    summary = {"coefficients": [float(f"{c:.6g}") for c in coefficients], "error": round(float(error), 4)}
    sys.stdout.write(json.dumps(summary | {"changes": [round(float(residual.mean()), 4), len(found)]}) + "\n")


if __name__ == "__main__":
    main()
