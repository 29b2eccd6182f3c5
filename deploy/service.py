"""A request from beginning to end, whatever platform it came by: fetch its files, make the video, shape it."""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import ImageOps

from deploy.errors import CLIENT_ERRORS
from deploy.runner import Output, Runner
from src.errors import InputError
from src.media.image import check_size, read_image
from src.media.persons.masks import MAX_PEOPLE
from src.media.video.resize import Size, resize_video
from src.serving.cancellation import (
    CancelledError,
    RequestContext,
    raise_if_cancelled,
    report_progress,
    request_context,
)
from src.storage.errors import StorageError
from src.storage.fetcher import InputFetcher

logger = logging.getLogger(__name__)

Named = str | Sequence[str]
"""A file in any form, or several."""

EXPECTED = (*CLIENT_ERRORS, StorageError)
"""What is told to the caller as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An engine, and where files come from."""

    engine: Runner
    inputs: InputFetcher

    def fetch(self, media: Mapping[str, Named], folder: Path) -> dict[str, Path | list[Path]]:
        """The files that a request names, by the predictor's names for them. CancelledError when it is to end."""
        files: dict[str, Path | list[Path]] = {}
        for name, value in media.items():
            if isinstance(value, str):
                files[name] = self.fetch_one(value, folder, name)
            else:
                files[name] = [self.fetch_one(each, folder, f"{name}-{n}") for n, each in enumerate(value, 1)]
        return files

    def fetch_one(self, value: str, folder: Path, name: str) -> Path:
        """One of them."""
        raise_if_cancelled()
        return self.inputs.fetch(value, folder, name=name, check=raise_if_cancelled)

    def make(
        self,
        media: Mapping[str, Named],
        values: Mapping[str, Any],
        folder: Path,
        follower: RequestContext,
        size: Size | None = None,
    ) -> Output:
        """A video in `folder`, on request of a given size. InputError and its like, StorageError, CancelledError."""
        self.engine.check({**values, **media})
        check_counts(media)
        with request_context(follower):
            raise_if_cancelled()
            report_progress("fetching")
            files = self.fetch(media, folder)
            if size is not None:
                files["image"] = crop_to_aspect(Path(str(files["image"])), size, folder)
            output = self.engine.run({**values, **files}, folder, follower)
            return output if size is None else resize_output(output, size, folder)


def check_counts(media: Mapping[str, Named]) -> None:
    """InputError for longer lists of files than any request can use, before the first of them is fetched."""
    for name, value in media.items():
        if not isinstance(value, str) and len(value) > MAX_PEOPLE:
            raise InputError(f"{name} has {len(value):,} files; at most {MAX_PEOPLE} are allowed")


def crop_to_aspect(image: Path, size: Size, folder: Path) -> Path:
    """The middle of a picture in the proportions of a size, so that the model's own size has them as well.

    InputError when too little of it is left.
    """
    picture = read_image(image)
    width, height = size
    ratio = width / height
    cut = (min(picture.width, round(picture.height * ratio)), min(picture.height, round(picture.width / ratio)))
    check_size(*cut, name=f"image, cut to the proportions of {width} x {height},")
    path = folder / "cut.png"
    ImageOps.fit(picture, cut).save(path)
    return path


def resize_output(output: Output, size: Size, folder: Path) -> Output:
    """The video in the size that was asked for."""
    raise_if_cancelled()
    report_progress("finishing")
    path = folder / "finished.mp4"
    resize_video(output.path, path, size)
    made = (output.metrics["width"], output.metrics["height"])
    return replace(output, path=path, metrics={**output.metrics, "width": size[0], "height": size[1], "made": made})


@contextmanager
def job_dir(follower: RequestContext) -> Iterator[Path]:
    """A folder for a request's files, gone afterwards; the log tells how the request ended and how long it took."""
    start = time.monotonic()
    outcome = "failed"
    with request_context(follower):
        try:
            with tempfile.TemporaryDirectory(prefix="multitalk-job-") as name:
                yield Path(name)
            outcome = "succeeded"
        except CancelledError:
            outcome = "stopped"
            raise
        finally:
            seconds = round(time.monotonic() - start, 3)
            logger.info("%s", outcome, extra={"fields": {"event": "request", "outcome": outcome, "seconds": seconds}})


def log_metrics(output: Output) -> None:
    """Put what the predictor measured into the log."""
    logger.info("measured", extra={"fields": {"event": "metrics", "metrics": dict(output.metrics)}})


def error_message(error: Exception) -> str:
    """Why a request failed, for its caller; what nobody expected goes to the log with its trace."""
    if isinstance(error, EXPECTED):
        return str(error)
    logger.error("the request failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
