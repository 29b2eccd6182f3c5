"""Decode one video for `src.media.video.reader.VideoReader`: python -m src.media.video.worker JSON

Each line of the standard input is a request: {"method": "open"}, "frame" or "timestamp" with an index, "thumbnail" with
a width and a height as well. The answer is a `Reply` on one line, and the pixels after it, RGB row by row.
"""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.media.file_type import probe
from src.media.sandbox import limit_cpu, limit_process
from src.media.video.frame_reader import FrameReader
from src.media.video.reader import Reply
from src.serving.request_warnings import collect_warnings

MAX_MEMORY = 4_000_000_000
"""Decoders of large frames keep many of them, and a stack for each processor."""


def main() -> None:
    """Answer requests until the standard input ends."""
    limit_process(memory=MAX_MEMORY)
    logging.disable()  # the parent process logs what it reads
    video = json.loads(sys.argv[1])
    file = probe(Path(video["path"]), name=video["name"])
    reader: FrameReader | None = None
    for line in sys.stdin:
        limit_cpu()
        pixels = b""
        with collect_warnings() as messages:
            try:
                reader = reader or FrameReader(file, max_seconds=video["max_seconds"])
                reply, pixels = answer(reader, json.loads(line))
            except InputError as error:
                reply = {"error": str(error)}
        reply["warnings"] = messages
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + pixels)
        sys.stdout.buffer.flush()


def answer(reader: FrameReader, request: Mapping[str, Any]) -> tuple[Reply, bytes]:
    """The reply to one request, and the pixels that follow it."""
    match request["method"]:
        case "frame":
            image = reader.frame_at(request["index"])
            return {"size": image.size, "has_pixels": True}, image.tobytes()
        case "thumbnail":
            width, height = request["width"], request["height"]
            frame = reader.thumbnail(request["index"], width=width, height=height)
            return {"size": (width, height), "has_pixels": True}, frame.to_ndarray().tobytes()
        case "timestamp":
            return {"seconds": reader.timestamp(request["index"]).as_integer_ratio()}, b""
    return {"size": reader.size}, b""


if __name__ == "__main__":
    main()
