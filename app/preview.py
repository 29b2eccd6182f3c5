"""Draw the speakers' regions on the cropped image, as a PNG: what the input preview_speakers shows, without weights.

python -m app.preview -i image=@examples/two_people.png -i first_audio=@examples/voice_anna.flac -o who.png
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    command = Parser("-m app.preview", "Draw the speakers' regions; the model does not run.")
    command.add_argument(
        "-i", "--input", action="append", default=[], metavar="NAME=VALUE", help="as for predict.py, see its --help"
    )
    command.add_output("-o", "--output", default=Path("preview.png"), metavar="PATH", help="PNG file to write")
    return command


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("app.preview", make_parser)

import os
import sys
from contextlib import closing
from typing import Any

from PIL import Image

from app.inputs import input_schema, validate_inputs
from app.job import raw_inputs
from app.settings import read_settings
from app.speakers import draw_preview, layout_speakers
from src.command_line import write_atomically
from src.errors import truncated_repr
from src.request import load_inputs
from src.serving.cog.cli_inputs import read_inputs


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one preview; exit status 0 if the PNG was written."""
    options = make_parser().parse_args(argv)
    try:
        image = draw(read_inputs(options.input, input_schema(), read_file))
        path = write_atomically(options.output, image.save, overwrite=options.overwrite)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


def read_file(name: str, text: str) -> Path:
    """The path in `@path`; ValueError for a URL, which is not fetched here."""
    if not text.startswith("@"):
        raise ValueError(f"{name}: {truncated_repr(text)} is not a file; write {name}=@path")
    return Path(text[1:]).expanduser()


def draw(inputs: Mapping[str, Any]) -> Image.Image:
    """Validate the inputs as `predict()` does and draw the speakers. Raises ValueError for what it would refuse."""
    values = validate_inputs(inputs)
    raw = raw_inputs(values)
    settings = read_settings(os.environ)
    with closing(load_inputs(raw, settings.limits)) as media:
        size_class = values["resolution"].removesuffix("p")
        layout = layout_speakers(settings.config, media, raw, size_class, values["aspect"])
        return draw_preview(media, layout, second_speaks=raw.second_audio is not None)
