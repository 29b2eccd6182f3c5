"""Who is where in a picture, as a PNG: what the input preview_speakers shows, without a server or any weights.

python preview.py -i image=@examples/two_people.png -i first_audio=@examples/voice_anna.flac -o who.png
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from app.settings import read_settings
from app.speakers import draw_preview, layout_speakers
from src.request import RawInputs, load_inputs
from src.serving.cog.cli_inputs import read_inputs
from src.serving.cog.schema import openapi

REPOSITORY = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one picture; the exit status is 0 only with it saved."""
    options = parser().parse_args(argv)
    document = openapi((REPOSITORY / "predict.py").read_text(encoding="utf-8"))
    try:
        save(read_inputs(options.input, document, read_file), document, options.output)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{options.output}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="preview.py", description="Draw who is where, without running the model.")
    command.add_argument("-i", "--input", action="append", default=[], metavar="NAME=VALUE", help="as for predict.py")
    command.add_argument("-o", "--output", type=Path, default=Path("preview.png"), help="where to save the picture")
    return command


def read_file(name: str, text: str) -> Path:
    """The path in `@path`; ValueError for a URL, which nobody fetches here."""
    if not text.startswith("@"):
        raise ValueError(f"{name}: {text[:80]!r} is no file; write {name}=@path")
    return Path(text[1:]).expanduser()


def save(given: dict[str, Any], document: dict[str, Any], path: Path) -> None:
    """Check the inputs as the predictor does, and draw the people. Raises ValueError for what it would refuse."""
    properties = document["components"]["schemas"]["Input"]["properties"]
    inputs = {name: field.get("default") for name, field in properties.items()} | given
    lists = {name: inputs[name] or [] for name in ("person_masks", "conditioning_audio")}
    uploads = RawInputs(**{field.name: inputs[field.name] for field in fields(RawInputs)} | lists)
    settings = read_settings(os.environ)
    size_class = inputs["resolution"].removesuffix("p")
    with closing(load_inputs(uploads, settings.limits)) as material:
        framing = layout_speakers(settings.config, material, uploads, size_class, inputs["aspect"])
        draw_preview(material, framing, second_speaks=uploads.second_audio is not None).save(path)


if __name__ == "__main__":
    sys.exit(main())
