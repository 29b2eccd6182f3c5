"""`python -m tests.golden DIR`: one line per output tensor; exits 1 unless every one is ok."""

import argparse
import sys
from pathlib import Path

from tests.golden.run import run_folder


def main(arguments: list[str] | None = None) -> int:
    """Run a folder of golden files and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of golden .safetensors files")
    parser.add_argument("--allow-todo", action="store_true", help="files that no code serves yet are not failures")
    options = parser.parse_args(arguments)
    verdicts = []
    for result in run_folder(options.folder):
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        verdicts.append(result.verdict)
    counts = {verdict: verdicts.count(verdict) for verdict in ("ok", "FAIL", "todo")}
    sys.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "\n")
    failed = counts["FAIL"] or not verdicts or (counts["todo"] and not options.allow_todo)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
