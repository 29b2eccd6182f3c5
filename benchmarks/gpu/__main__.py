"""`python -m benchmarks.gpu`: what the 14B model takes on this GPU, each figure beside its floor in the same run.

The weights are random, since no figure here depends on them. `--tiny` runs every stage on the processor with the small
network, to see that it works; what it measures says nothing about a GPU. Status 1 when a stage failed.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

from benchmarks.gpu.bench import large, tiny
from benchmarks.gpu.document import failures, run
from benchmarks.gpu.stages import STAGES
from benchmarks.report.environment import RESULTS

logger = logging.getLogger(__name__)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="the small network on the processor; --output is needed")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of %(default)s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=int, default=0, metavar="ID")
    parser.add_argument("--folder", type=Path, help="where weights are written for the stage that reads them")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stages = given.stages.split(",")
    if unknown := set(stages) - STAGES.keys():
        parser.error(f"no stages {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if given.tiny and (given.output is None or given.output.resolve().is_relative_to(RESULTS)):
        parser.error(f"--tiny measures nothing that belongs into {RESULTS}; name another --output")
    if not given.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --tiny shows on a processor that the stages run")
    device = torch.device("cpu") if given.tiny else torch.device("cuda", given.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events are recorded, and some kernels are launched, on the current one
    with torch.inference_mode():
        bench = tiny(device) if given.tiny else large(device, given.repeats, given.folder)
    document = run(bench, stages, given.output or RESULTS / "gpu.json")
    for stage, message in failures(document).items():
        logger.error("%s failed: %s", stage, message)
    return 1 if failures(document) else 0


if __name__ == "__main__":
    sys.exit(main())
