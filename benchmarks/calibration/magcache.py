"""`python -m benchmarks.calibration.magcache [DIR]`: measure the magnitude ratios of MagCache (Ma et al. 2025).

The ratio of a step is the norm of the blocks' residual of a token divided by that norm in the step before, averaged
over tokens and clips, in the conditional pass with turbo's guidance and without a cache. Prints JSON for
wan/configs/magcache.py.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import MODEL
from src.command_line import Parser, existing_folder, launch, number, whole_number
from wan.configs import WAN_CONFIGS


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.calibration.magcache", __doc__)
    parser.add_argument(
        "folder", type=existing_folder, nargs="?", metavar="DIR", help="folder of the weights (default: built-in)"
    )
    parser.add_argument("--model", default=MODEL, choices=sorted(WAN_CONFIGS), help="model configuration")
    parser.add_argument(
        "--size-class", default="480", choices=("480", "720"), help="size class, which selects the preset's shift"
    )
    parser.add_argument("--clips", type=whole_number(), default=8, help="number of clips")
    parser.add_argument("--steps", type=whole_number(), help="number of denoising steps (default: turbo's)")
    parser.add_argument("--shift", type=number(), help="timestep shift (default: turbo's)")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.calibration.magcache", make_parser)

import itertools
import json
import sys

import numpy as np
from torch import Tensor

from benchmarks.baseline.puppet import Puppet
from benchmarks.calibration.residual_recorder import record_residuals
from benchmarks.quality.clips import ROWS, draw_clip
from wan.sampling.options import SamplingOptions, resolve_options

_ROWS = ("one", "two para")


def magnitude_ratios(residuals_BLD: list[Tensor]) -> list[float]:
    """The ratio of each step after the first."""
    norms = [residual.float().norm(dim=-1) for residual in residuals_BLD]
    return [(later / earlier).mean().item() for earlier, later in itertools.pairwise(norms)]


def measure_clips(puppet: Puppet, options: SamplingOptions, clips: int) -> list[list[float]]:
    """The ratios of every clip, alternating between the rows."""
    rows = [row for row in ROWS if row.name in _ROWS]
    ratios = []
    for index in range(clips):
        with record_residuals(puppet.pipeline.models.transformer) as records:
            puppet.generate(draw_clip(rows[index % len(rows)], 1000, index), options)
        ratios.append(magnitude_ratios([record.residual_BLD for record in records]))
    return ratios


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    puppet = Puppet(args.folder, model=args.model) if args.folder else Puppet(model=args.model)
    options = resolve_options(
        puppet.pipeline.config,
        size_class=args.size_class,
        turbo=True,
        sampling_steps=args.steps,
        shift=args.shift,
        cache="none",
        seed=0,
    )
    ratios = np.array(measure_clips(puppet, options, args.clips))
    summary = {
        "shift": options.shift,
        "ratios": [float(f"{ratio:.5g}") for ratio in ratios.mean(axis=0)],
        "deviation": float(f"{ratios.std(axis=0).max():.2g}"),
        "clips": args.clips,
    }
    sys.stdout.write(json.dumps(summary) + "\n")
