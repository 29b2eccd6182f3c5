"""Decode one image for `src.media.image.read_image`: python -m src.media.images.worker JSON

Writes a line of JSON, {"warnings": [...], "size": [width, height]} or {"warnings": [...], "error": "..."}, and then the
pixels, RGB row by row.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from src.errors import InputError
from src.media.file_type import probe
from src.media.images.decode import decode
from src.media.sandbox import limit_process
from src.serving.request_warnings import collect_warnings


def main() -> None:
    """Decode the image that the argument describes."""
    limit_process()
    logging.disable()  # the parent process logs what it reads
    request = json.loads(sys.argv[1])
    header: dict[str, Any] = {}
    parts: Iterator[Image.Image] = iter(())
    with collect_warnings() as header["warnings"]:
        try:
            file = probe(Path(request["path"]), name=request["name"])  # gone after a cancel
            header["size"], parts = decode(file, background_color=request["background_color"], kinds=request["kinds"])
        except InputError as error:
            header["error"] = str(error)
    output = sys.stdout.buffer
    output.write(json.dumps(header).encode() + b"\n")
    output.flush()
    for part in parts:
        output.write(part.tobytes())
    output.flush()


if __name__ == "__main__":
    main()
