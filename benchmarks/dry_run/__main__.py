"""`python -m benchmarks.dry_run`: walk through the recipes of common cards on a fake card; about a minute each.

Writes benchmarks/results/dry_run.json, from which docs/gpu.md is made. The exit status is 1 if one does not fit.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.dry_run", __doc__)
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "dry_run.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.dry_run.__main__", make_parser)

import logging

from benchmarks.dry_run.recipes import RECIPES, counted, predicted
from benchmarks.report.environment import environment, write_result

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages(logging.WARNING)
    rows = [predicted(recipe) for recipe in RECIPES]
    document = {**environment("benchmarks.dry_run"), "recipes": rows}
    write_result(args.output, document)
    for recipe, row in zip(RECIPES, rows, strict=True):
        row |= counted(recipe)
        write_result(args.output, document)
        logger.warning("%s", row)
    return 1 if any(each["faults"] for each in rows) else 0
