"""`python -m benchmarks.gpu`: seconds and peak memory of the 14B model on a GPU, beside the roofline.

The weights are random, since neither time nor memory depends on them. `--tiny` runs every stage on the CPU with a small
network as a smoke test. Written to benchmarks/results/gpu.json. The exit status is 1 if a stage failed.
"""

import logging
import sys
from pathlib import Path

import torch

from benchmarks.gpu.bench import full_bench, tiny_bench
from benchmarks.gpu.document import failures, run_stages
from benchmarks.gpu.stages import RENAMED_STAGES, STAGES
from benchmarks.report.environment import RESULTS
from benchmarks.report.parser import make_parser

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    parser = make_parser("benchmarks.gpu", __doc__)
    parser.add_argument("--tiny", action="store_true", help="smoke test: a small network on the CPU; needs --output")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated stages to run")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each call")
    parser.add_argument("--device", type=int, default=0, metavar="ID", help="index of the GPU")
    parser.add_argument(
        "--folder", type=Path, help="parent of the temporary folder for the stage `load` (default: the system's)"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write (default: benchmarks/results/gpu.json)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stages = [RENAMED_STAGES.get(stage, stage) for stage in args.stages.split(",")]
    if unknown := set(stages) - STAGES.keys():
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}; available: {', '.join(STAGES)}")
    if args.tiny and (args.output is None or args.output.resolve().is_relative_to(RESULTS)):
        parser.error(f"--tiny is a smoke test and must not write to {RESULTS}; give another --output")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --tiny runs the stages on a CPU")
    device = torch.device("cpu") if args.tiny else torch.device("cuda", args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and some kernels use the current device
    with torch.inference_mode():
        bench = tiny_bench(device) if args.tiny else full_bench(device, args.repeats, args.folder)
    document = run_stages(bench, stages, args.output or RESULTS / "gpu.json")
    for stage, message in failures(document).items():
        logger.error("%s failed: %s", stage, message)
    return 1 if failures(document) else 0


if __name__ == "__main__":
    sys.exit(main())
