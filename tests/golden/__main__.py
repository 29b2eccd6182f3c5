"""`python -m tests.golden DIR`: print one line per output tensor; exit 1 unless all are ok."""

import sys

from src.command_line import Parser, existing_folder, launch


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m tests.golden", __doc__)
    parser.add_argument("folder", type=existing_folder, metavar="DIR", help="folder of golden .safetensors files")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("tests.golden.__main__", make_parser)

from tests.golden.run import run_folder


def main(arguments: list[str] | None = None) -> int:
    """Run a folder of golden files and return the exit status."""
    options = make_parser().parse_args(arguments)
    verdicts = []
    for result in run_folder(options.folder):
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        verdicts.append(result.verdict)
    counts = {verdict: verdicts.count(verdict) for verdict in ("ok", "FAIL")}
    sys.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "\n")
    return 1 if counts["FAIL"] or not verdicts else 0
