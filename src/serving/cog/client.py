"""`python predict.py -i image=@a.png -i first_audio=@b.wav -o out.mp4`: one prediction, like `cog predict`."""

import argparse
import base64
import contextlib
import json
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

from src.command_line import REPOSITORY, Parser, number, require_packages, write_atomically
from src.errors import truncated_repr
from src.serving.cog import schema
from src.serving.cog.cli_inputs import describe_inputs, read_inputs
from src.serving.cog.failure import plain_error
from src.serving.cog.server import PREDICTOR, Server, ServerError
from src.serving.cog.server_connection import ServerConnection

EXIT_TERMINATED = 143


def main(argv: Sequence[str] | None = None, *, folder: Path = REPOSITORY, predictor: str = PREDICTOR) -> int:
    """Run one prediction; the exit status is 0 only if it succeeded and its output is saved."""
    options = parser(folder, predictor).parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # unwinds, which stops the server
    try:
        answer = predict(options, folder, predictor)
        path = save(answer, options.output, overwrite=options.overwrite)
    except (ValueError, OSError, HTTPException, ServerError) as error:
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("cancelled")
        return 130
    log(f"metrics: {json.dumps(answer.get('metrics', {}))}")
    if path not in {str(options.output), answer["output"]}:
        log(f"{options.output} has been written meanwhile; the output is in {path}")
    sys.stdout.write(f"{path}\n")
    return 0


def predict(options: argparse.Namespace, folder: Path, predictor: str) -> dict[str, Any]:
    """The answer of the server at `--url`, or of one that is started for this prediction. Inputs are checked before."""
    if options.url is None:
        require_packages("cog", "torch", "uvicorn")  # of a virtual environment that is not active
        inputs = read_inputs(options.input, schema.write(folder, predictor))
        with Server(folder, predictor, setup_timeout=options.setup_timeout, on_log=log) as server:
            return server.predict(inputs)
    connection = ServerConnection(options.url)
    inputs = read_inputs(options.input, connection.schema())
    log(f"waiting for {connection.url}")
    prediction_id = uuid4().hex
    with cancelled_at_exit(connection, prediction_id):
        answer = connection.predict(inputs, prediction_id=prediction_id)
    log(answer.get("logs", "").rstrip("\n"))
    return answer


@contextlib.contextmanager
def cancelled_at_exit(connection: ServerConnection, prediction_id: str) -> Iterator[None]:
    """Cancel the prediction on the server if this process is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(ServerError, OSError):
            connection.cancel(prediction_id)
        raise


def parser(folder: Path = REPOSITORY, predictor: str = PREDICTOR) -> Parser:
    """The command line's arguments, with the inputs of the predictor in its help."""
    command = Parser(
        "predict.py",
        "Start the model's server, send it one request and save the output.",
        epilog=describe_inputs(read_schema(folder, predictor)),
    )
    command.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an input; NAME=@PATH sends a file; once for each input, several times for a list",
    )
    command.add_output("-o", "--output", default=Path("output.mp4"), metavar="PATH", help="file to write")
    command.add_argument("--url", help="use the server that runs there, such as http://127.0.0.1:5000 (make serve)")
    command.add_argument(
        "--setup-timeout",
        type=number(above=True),
        default=300.0,
        metavar="SECONDS",
        help="how long loading the model may take",
    )
    command.add_argument("--version", action="version", version=f"multitalk {version()}")
    return command


def read_schema(folder: Path, predictor: str) -> schema.Schema:
    """The predictor's OpenAPI document."""
    file, _, class_name = predictor.partition(":")
    return schema.openapi((folder / file).read_text(encoding="utf-8"), class_name)


def version() -> str:
    """The project's version."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def log(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def save(answer: dict[str, Any], path: Path, *, overwrite: bool) -> str:
    """Write the output of a succeeded prediction to a file; ServerError for a failed or canceled one.

    Returns the path, which has another number if another command has made such a file meanwhile, or the URL where the
    server has put the output.
    """
    if answer["status"] != "succeeded":
        reason = answer.get("error") or answer["status"]
        raise ServerError(plain_error(reason))
    output = answer.get("output")
    if not isinstance(output, str):
        raise ServerError(f"the output is {truncated_repr(output)}; a file is needed")
    if output.startswith(("http://", "https://")):
        log(f"the server has put the output elsewhere; {path} is not written")
        return output

    def write(partial: Path) -> None:
        if output.startswith("data:"):
            partial.write_bytes(base64.b64decode(output.partition(",")[2]))
        else:
            shutil.copyfile(output.removeprefix("file://"), partial)

    return str(write_atomically(path, write, overwrite=overwrite))
