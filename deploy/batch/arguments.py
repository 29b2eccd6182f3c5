"""The command line of a batch."""

from pathlib import Path

from src.command_line import Parser, number, whole_number

MAX_ATTEMPTS = 3


def make_parser() -> Parser:
    """Its arguments."""
    parser = Parser(
        "-m deploy.batch",
        "Read a file of requests and write a file of results, over the GPUs of one machine or of a Ray cluster.\n"
        "The same command continues an interrupted batch.",
    )
    parser.add_argument("requests", type=Path, help="one JSON object per line: id, and the inputs of predict()")
    parser.add_argument("results", type=Path, help="one JSON object per line; requests with a result are skipped")
    parser.add_argument("--output", required=True, help="where videos go: a folder, or s3://bucket/prefix")
    parser.add_argument("--workers", type=whole_number(), help="number of workers (default: one per GPU)")
    parser.add_argument("--gpus-per-worker", type=number(), help="default: 1, and 0 on a machine without GPUs")
    parser.add_argument("--attempts", type=whole_number(), default=MAX_ATTEMPTS, help="per request")
    parser.add_argument("--retry-failed", "--again", action="store_true", help="run requests again that have failed")
    parser.add_argument("--address", help="address of a Ray cluster (default: this machine only)")
    return parser
