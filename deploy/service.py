"""A request from beginning to end, whatever platform it came by: fetch its files, make the video, shape it."""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps

from deploy.engine import INPUT_FAULTS, Engine, Output
from deploy.finish import Shape, finish
from src.media.picture import read_picture
from src.serving.following import Follower, StoppedError, followed, passed
from src.storage.errors import StorageError
from src.storage.inputs import Inputs

logger = logging.getLogger(__name__)

EXPECTED = (*INPUT_FAULTS, StorageError)
"""What is told to the caller as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An engine, and where files come from."""

    engine: Engine
    inputs: Inputs

    def fetch(self, media: Mapping[str, str], folder: Path) -> dict[str, Path]:
        """The files that a request names, by the predictor's names for them."""
        return {name: self.inputs.fetch(value, folder, name=name) for name, value in media.items()}

    def make(
        self,
        media: Mapping[str, str],
        values: Mapping[str, Any],
        folder: Path,
        follower: Follower,
        shape: Shape | None = None,
    ) -> Output:
        """A video in `folder`, of the given shape. InputError and its like, StorageError, StoppedError."""
        self.engine.check({**values, **media})
        with followed(follower):
            passed("fetching")
            files = self.fetch(media, folder)
            if shape is not None and shape.size is not None:
                files["image"] = cut_to(files["image"], shape.size, folder)
            output = self.engine.run({**values, **files}, folder, follower)
            return output if shape is None else shaped(output, shape, folder)


def cut_to(image: Path, size: tuple[int, int], folder: Path) -> Path:
    """The middle of a picture in the proportions of a size, so that the model's own size has them as well."""
    picture = read_picture(image)
    width, height = size
    ratio = width / height
    cut = (min(picture.width, round(picture.height * ratio)), min(picture.height, round(picture.width / ratio)))
    path = folder / "cut.png"
    ImageOps.fit(picture, (max(1, cut[0]), max(1, cut[1]))).save(path)
    return path


def shaped(output: Output, shape: Shape, folder: Path) -> Output:
    """The video in the frame rate and size that were asked for."""
    passed("finishing")
    path = folder / "finished.mp4"
    frames = finish(output.path, path, shape)
    width, height = shape.size or (output.metrics["width"], output.metrics["height"])
    made = {name: output.metrics[name] for name in ("width", "height", "frames")}
    sizes = {"frames": frames, "width": width, "height": height, "made": made}
    return replace(output, path=path, metrics={**output.metrics, **sizes})


@contextmanager
def workplace(follower: Follower) -> Iterator[Path]:
    """A folder for a request's files, gone afterwards; the log tells how the request ended and how long it took."""
    start = time.monotonic()
    outcome = "failed"
    with followed(follower):
        try:
            with tempfile.TemporaryDirectory(prefix="multitalk-job-") as name:
                yield Path(name)
            outcome = "succeeded"
        except StoppedError:
            outcome = "stopped"
            raise
        finally:
            seconds = round(time.monotonic() - start, 3)
            logger.info("%s", outcome, extra={"fields": {"event": "request", "outcome": outcome, "seconds": seconds}})


def measured(output: Output) -> None:
    """Put what the predictor measured into the log."""
    logger.info("measured", extra={"fields": {"event": "metrics", "metrics": dict(output.metrics)}})


def reason(error: Exception) -> str:
    """Why a request failed, for its caller; what nobody expected goes to the log with its trace."""
    if isinstance(error, EXPECTED):
        return str(error)
    logger.error("the request failed", exc_info=error)
    return f"{type(error).__name__}: {error}"


def versions() -> dict[str, str]:
    """What runs here."""
    return {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
