"""`python -m benchmarks.calibration.magcache [DIR]`: record how the magnitude of the residual falls over the steps.

Ma et al. 2025: for each step the norm of what the blocks add to a token, by that norm in the step before, averaged over
the tokens. Here over clips too; of the conditional pass, guided as with turbo, every step computed. The result is to be
written into `wan/configs/magcache.py`.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.baseline.puppet import MODEL, Puppet
from benchmarks.calibration.residual_recorder import recording
from benchmarks.quality.clips import ROWS, draw_clip
from wan.configs import WAN_CONFIGS
from wan.sampling.options import SamplingOptions, resolve_options

_ROWS = ("one", "two para")


def ratios(added_BLD: list[Tensor]) -> list[float]:
    """Of each step after the first."""
    norms = [each.float().norm(dim=-1) for each in added_BLD]
    return [(later / earlier).mean().item() for earlier, later in itertools.pairwise(norms)]


def record(puppet: Puppet, options: SamplingOptions, clips: int) -> list[list[float]]:
    """The ratios of every clip; rows take turns."""
    rows = [row for row in ROWS if row.name in _ROWS]
    found = []
    for index in range(clips):
        with recording(puppet.pipeline.models.transformer) as recorded:
            puppet.take(draw_clip(rows[index % len(rows)], 1000, index), options)
        found.append(ratios([each.added_BLD for each in recorded]))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration.magcache", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="of the weights")
    parser.add_argument("--model", default=MODEL, choices=sorted(WAN_CONFIGS))
    parser.add_argument("--size-class", default="480", choices=("480", "720"))
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--steps", type=int, help="turbo's, unless given")
    parser.add_argument("--shift", type=float, help="turbo's, unless given")
    given = parser.parse_args()
    puppet = Puppet(given.folder, model=given.model) if given.folder else Puppet(model=given.model)
    options = resolve_options(
        puppet.pipeline.config,
        size_class=given.size_class,
        turbo=True,
        sampling_steps=given.steps,
        shift=given.shift,
        cache="none",
        seed=0,
    )
    found = np.array(record(puppet, options, given.clips))
    summary = {
        "shift": options.shift,
        "ratios": [float(f"{ratio:.5g}") for ratio in found.mean(axis=0)],
        "deviation": float(f"{found.std(axis=0).max():.2g}"),
        "clips": given.clips,
    }
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
