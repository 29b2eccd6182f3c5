"""The argument of the commands in this folder."""

from pathlib import Path

from src.command_line import Parser

FOLDER = Path(__file__).parent


def folder_parser(command: str, description: str | None) -> Parser:
    """Where to write; the files of this folder are replaced, those of another one only with --overwrite."""
    parser = Parser(command, description)
    parser.add_output(
        "--folder", is_folder=True, rewrite_default=True, default=FOLDER, metavar="DIR", help="folder to write to"
    )
    return parser
