"""`python predict.py -i image=@a.png -i first_audio=@b.wav -o out.mp4`: one prediction, like `cog predict`."""

import argparse
import base64
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.errors import truncated_repr
from src.serving.cog import schema
from src.serving.cog.cli_inputs import read_inputs
from src.serving.cog.failure import plain_error
from src.serving.cog.server import PREDICTOR, Server, ServerError

REPOSITORY = Path(__file__).resolve().parents[3]


def main(argv: Sequence[str] | None = None, *, folder: Path = REPOSITORY, predictor: str = PREDICTOR) -> int:
    """Run one prediction on a temporary server; the exit status is 0 only if the output was saved."""
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which stops the server
    try:
        inputs = read_inputs(options.input, schema.write(folder, predictor))
        with Server(folder, predictor, setup_timeout=options.setup_timeout, on_log=log) as server:
            answer = server.predict(inputs)
        save(answer, options.output)
    except (ValueError, OSError, ServerError) as error:
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("cancelled")
        return 130
    log(f"metrics: {json.dumps(answer.get('metrics', {}))}")
    sys.stdout.write(f"{options.output}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    command = argparse.ArgumentParser(
        prog="predict.py",
        description="Start the Cog server, send one request, save its output.",
    )
    command.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an input; NAME=@PATH sends a file; once for each input",
    )
    command.add_argument("-o", "--output", type=Path, default=Path("output.mp4"), help="where to save the result")
    command.add_argument(
        "--setup-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long loading may take (300)",
    )
    return command


def log(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def save(answer: dict[str, Any], path: Path) -> None:
    """Write the output of a succeeded prediction to `path`; ServerError for a failed or canceled one."""
    if answer["status"] != "succeeded":
        reason = answer.get("error") or answer["status"]
        raise ServerError(plain_error(reason))
    output = answer.get("output")
    if not isinstance(output, str):
        raise ServerError(f"the output is {truncated_repr(output)}; a file is needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    if output.startswith("data:"):
        path.write_bytes(base64.b64decode(output.partition(",")[2]))
    else:
        shutil.copyfile(output.removeprefix("file://"), path)
