"""Read a video of any frame rate at the output's 25 frames per second, decoded in a process of its own."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from src.errors import InputError
from src.media.file_type import MediaFile, probe
from src.media.sandbox import Sandbox, SandboxError
from src.media.video.stream import NEEDED
from src.serving.request_warnings import warn_caller


class Reply(TypedDict, total=False):
    """What the process answers; pixels (RGB) of `size`, width and height, follow if `has_pixels`."""

    warnings: list[str]
    error: str
    size: tuple[int, int]
    has_pixels: bool
    seconds: tuple[int, int]


class VideoReader:
    """The frames that a video shows at 0, 1/25, 2/25 ... seconds, by its timestamps.

    The methods are those of `FrameReader`, which runs in the process. It is killed when a request takes more than
    MAX_CPU_SECONDS of processor time, and on a cancel. `cuts` are the indices at which another scene begins.
    """

    def __init__(self, file: MediaFile | Path | str, *, max_seconds: float = math.inf) -> None:
        """Check the packets of the first `max_seconds` and decode the first frame.

        Raises InputError as `FrameReader` does.
        """
        self.cuts: tuple[int, ...] = ()
        self._file = file if isinstance(file, MediaFile) else probe(file, name="video")
        self._max_seconds = max_seconds
        self._process: Sandbox | None = None
        self._pixels = b""
        width, height = self._request("open")["size"]
        self.size = (width, height)
        """Width and height of every frame."""

    def frame_at(self, index: int) -> Image.Image:
        """The frame at index / 25 seconds: 8-bit RGB, upright, with square pixels."""
        self._request("frame", index=index)
        return Image.frombytes("RGB", self.size, self._pixels)

    def timestamp(self, index: int) -> Fraction:
        """The timestamp, in seconds, of the frame at index / 25 seconds."""
        return Fraction(*self._request("timestamp", index=index)["seconds"])

    def thumbnail(self, index: int, *, width: int, height: int) -> VideoFrame:
        """The frame at index / 25 seconds as RGB of a small size, neither rotated nor in proportion."""
        self._request("thumbnail", index=index, width=width, height=height)
        return VideoFrame.from_ndarray(np.frombuffer(self._pixels, np.uint8).reshape(height, width, 3), format="rgb24")

    def close(self) -> None:
        """End the process; reading on starts another."""
        if self._process is not None:
            self._process.__exit__(None, None, None)
        self._process = None

    def _request(self, method: str, **arguments: int) -> Reply:
        """The reply to a request; its pixels are in `_pixels`."""
        try:
            if self._process is None:
                self._process = self._start()
                if method != "open":
                    self._exchange(self._process, "open")
            return self._exchange(self._process, method, **arguments)
        except SandboxError as error:
            self.close()
            raise self._file.error(f"{error}; {NEEDED}") from error
        except BaseException:
            self.close()
            raise

    def _start(self) -> Sandbox:
        file = {"path": str(self._file.path.absolute()), "name": self._file.name, "max_seconds": self._max_seconds}
        return Sandbox("src.media.video.worker", json.dumps(file)).__enter__()

    def _exchange(self, process: Sandbox, method: str, **arguments: Any) -> Reply:
        process.send(json.dumps({"method": method} | arguments).encode())
        reply: Reply = json.loads(process.read_line())
        for message in reply["warnings"]:
            warn_caller(message)
        if "error" in reply:
            raise InputError(reply["error"])
        if reply.get("has_pixels"):
            width, height = reply["size"]
            self._pixels = process.read(3 * width * height)
        return reply
