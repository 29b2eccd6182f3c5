"""`python -m benchmarks.gpu`: seconds and peak memory of the 14B model on a GPU, beside the roofline.

The weights are random, since neither time nor memory depends on them. `--tiny` runs every stage on the CPU with a small
network as a smoke test. Written to benchmarks/results/gpu.json. The exit status is 1 if a stage failed.

`--quick --budget 540` measures what matters first, within nine minutes, on a machine with torch, transformers,
safetensors, einops, diffusers, ftfy and wcwidth only.
"""

from argparse import Namespace
from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, existing_folder, launch, log_messages, number, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.gpu", __doc__)
    parser.add_argument("--tiny", action="store_true", help="smoke test: a small network on the CPU; needs --output")
    parser.add_argument("--quick", action="store_true", help="other stages: what to measure first on a machine")
    parser.add_argument(
        "--budget", type=number(above=True), metavar="S", help="skip stages that would exceed S seconds"
    )
    parser.add_argument("--stages", metavar="A,B", help="stages to run (default: all)")
    parser.add_argument("--repeats", type=whole_number(), default=3, help="measurements of each call")
    parser.add_argument("--device", type=whole_number(0), default=0, metavar="ID", help="index of the GPU")
    parser.add_argument(
        "--folder",
        type=existing_folder,
        help="parent of the temporary folder for the stage `load` (default: the system's)",
    )
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "gpu.json", help="JSON file to write")
    parser.checks.append(require_other_output)
    return parser


def require_other_output(args: Namespace) -> None:
    """ValueError if a smoke test would write where results are."""
    if args.tiny and args.output.resolve().is_relative_to(RESULTS):
        raise ValueError(f"--tiny is a smoke test and must not write to {RESULTS}; give another --output")


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.gpu.__main__", make_parser)

import logging
import math
import time

import torch

from benchmarks.gpu.bench import full_bench, tiny_bench
from benchmarks.gpu.document import failures, run_stages
from benchmarks.gpu.stages import QUICK_STAGES, RENAMED_STAGES, STAGES

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser()
    args = parser.parse_args(argv)
    log_messages()
    deadline = time.monotonic() + (args.budget or math.inf)
    available = STAGES | QUICK_STAGES
    names = args.stages.split(",") if args.stages else QUICK_STAGES if args.quick else STAGES
    stages = [RENAMED_STAGES.get(stage, stage) for stage in names]
    if unknown := set(stages) - available.keys():
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}; available: {', '.join(available)}")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --tiny runs the stages on a CPU")
    device = torch.device("cpu") if args.tiny else torch.device("cuda", args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and some kernels use the current device
    with torch.inference_mode():
        bench = tiny_bench(device) if args.tiny else full_bench(device, args.repeats, args.folder)
    document = run_stages(bench, stages, args.output, deadline)
    for stage, message in failures(document).items():
        logger.error("%s failed: %s", stage, message)
    return 1 if failures(document) else 0
