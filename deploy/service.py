"""One request on any platform: fetch its files, generate the video, resize it, deliver it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps

from app.generator import Output
from app.inputs import check_files, validate_inputs
from deploy.errors import CLIENT_ERRORS
from deploy.runner import Runner
from src.media.file_type import probe
from src.media.image import check_size, read_image, read_mask
from src.media.video.resize import Size, resize_video
from src.serving.cancellation import (
    CancelledError,
    RequestContext,
    raise_if_cancelled,
    report_progress,
    request_context,
)
from src.serving.request_warnings import collect_warnings
from src.serving.temp_dirs import DiskError, disk_errors, owned_dir
from src.storage.errors import StorageError
from src.storage.fetcher import InputFetcher

logger = logging.getLogger(__name__)

FileReference = str | Sequence[str]
"""A file in any form that `InputFetcher` accepts, or several for an input that is a list."""

EXPECTED_ERRORS = (*CLIENT_ERRORS, StorageError, DiskError)
"""Errors whose message is returned as it is and not logged."""

Paths = dict[str, Path | list[Path]]
"""Fetched files by input name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Processes requests with one model. Thread-safe: files of several requests may be fetched at the same time."""

    runner: Runner
    fetcher: InputFetcher

    def process(
        self,
        files: Mapping[str, FileReference],
        values: Mapping[str, Any],
        context: RequestContext,
        deliver: Callable[[Output], T],
        size: Size | None = None,
    ) -> T:
        """Make a video from the inputs of `predict()`, `files` and other `values`; returns what `deliver` returns.

        `size` (width, height) is that of the file; None keeps the model's. The file exists until `deliver` returns.
        Raises CLIENT_ERRORS, StorageError, DiskError, CancelledError.
        """
        with job_dir(context) as work_dir, collect_warnings() as messages:
            validate_inputs({**values, **files})
            check_files(files, self.fetcher.limits)
            paths = self.fetch(files, work_dir)
            if size is not None:
                paths |= crop_to_aspect(paths, size, work_dir)
            output = self.runner.run({**values, **paths}, work_dir, context)
            if size is not None:
                output = resize_output(output, size, work_dir)
            if messages:
                warnings = "; ".join(filter(None, (*messages, output.metrics.get("warnings"))))
                output = replace(output, metrics=output.metrics | {"warnings": warnings})
            log_metrics(output)
            return deliver(output)

    def fetch(self, files: Mapping[str, FileReference], work_dir: Path) -> Paths:
        """Download or decode every file of a request, by input name. Raises CancelledError."""
        report_progress("fetching")
        paths: Paths = {}
        for name, value in files.items():
            if isinstance(value, str):
                paths[name] = self.fetch_one(value, work_dir, name)
            else:
                paths[name] = [self.fetch_one(item, work_dir, f"{name}-{n}") for n, item in enumerate(value, 1)]
        return paths

    def fetch_one(self, value: str, work_dir: Path, name: str) -> Path:
        """Download or decode one file."""
        raise_if_cancelled()
        return self.fetcher.fetch(value, work_dir, name=name)


def crop_to_aspect(paths: Paths, size: Size, work_dir: Path) -> Paths:
    """Center-crop the image and its person masks to the aspect ratio of `size`, so that the video is generated in about
    that ratio; returns the new files.

    InputError when the crop is smaller than the model accepts, and as `read_mask` for a mask that does not fit.
    """
    image = read_image(probe(Path(str(paths["image"])), name="image"))
    width, height = size
    ratio = width / height
    crop = (min(image.width, round(image.height * ratio)), min(image.height, round(image.width / ratio)))
    check_size(*crop, name=f"image, cut to the proportions of {width} x {height},")
    cropped: Paths = {"image": save_crop(image, crop, work_dir / "cropped.png")}
    masks = paths.get("person_masks")
    if isinstance(masks, list):
        cropped["person_masks"] = [
            save_crop(read_whole_mask(path, image, n), crop, work_dir / f"cropped-mask-{n}.png")
            for n, path in enumerate(masks, 1)
        ]
    return cropped


def read_whole_mask(path: Path, image: Image.Image, number: int) -> Image.Image:
    """A person mask at the size of the uncropped image, black and white."""
    file = probe(path, name=f"person_masks (number {number})")
    return Image.fromarray(read_mask(file, height=image.height, width=image.width)).convert("L")


def save_crop(image: Image.Image, crop: Size, path: Path) -> Path:
    """Center-crop an image to `crop` and save it."""
    ImageOps.fit(image, crop).save(path)
    return path


def resize_output(output: Output, size: Size, work_dir: Path) -> Output:
    """Re-encode the video at `size`. Its metrics keep the generated size as `made`."""
    raise_if_cancelled()
    report_progress("finishing")
    path = work_dir / "resized.mp4"
    resize_video(output.path, path, size, raise_if_cancelled)
    generated = (output.metrics["width"], output.metrics["height"])
    metrics = {**output.metrics, "width": size[0], "height": size[1], "made": generated}
    return replace(output, path=path, metrics=metrics)


@contextmanager
def job_dir(context: RequestContext) -> Iterator[Path]:
    """A temporary folder for a request's files. Logs the request's outcome and duration when it is removed."""
    start = time.monotonic()
    outcome = "failed"
    with request_context(context):
        try:
            with disk_errors(), owned_dir("job-") as folder:
                yield folder
            outcome = "succeeded"
        except CancelledError:
            outcome = "stopped"
            raise
        finally:
            seconds = round(time.monotonic() - start, 3)
            logger.info("%s", outcome, extra={"fields": {"event": "request", "outcome": outcome, "seconds": seconds}})


def log_metrics(output: Output) -> None:
    """Log the metrics of a finished video."""
    logger.info("metrics", extra={"fields": {"event": "metrics", "metrics": output.metrics}})


def error_message(error: Exception) -> str:
    """The message for the caller. An unexpected error is logged with its traceback."""
    if isinstance(error, EXPECTED_ERRORS):
        return str(error)
    logger.error("the request failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
