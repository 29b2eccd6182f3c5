"""`python -m tests.golden DIR`: print one line per output tensor; exit 1 unless all are ok."""

import argparse
import sys
from pathlib import Path

from tests.golden.run import run_folder


def main(arguments: list[str] | None = None) -> int:
    """Run a folder of golden files and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of golden .safetensors files")
    options = parser.parse_args(arguments)
    verdicts = []
    for result in run_folder(options.folder):
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        verdicts.append(result.verdict)
    counts = {verdict: verdicts.count(verdict) for verdict in ("ok", "FAIL")}
    sys.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "\n")
    return 1 if counts["FAIL"] or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
