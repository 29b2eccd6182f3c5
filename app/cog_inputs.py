"""File inputs that Cog's server left to the predictor: fetched within the limits of `src.storage`, then deleted."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.inputs import check_files, file_inputs, validate_inputs
from src.serving.cancellation import run_cancellable
from src.serving.cog.prediction_request import FETCH_PREFIX
from src.storage.fetcher import InputFetcher, make_fetcher_without_bucket
from src.storage.settings import read_settings


@contextmanager
def fetched_inputs(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The inputs with paths instead of the URLs that the gateway marked with FETCH_PREFIX; the files are deleted
    afterwards.

    Raises ValidationError and InputError as `VideoGenerator.generate`, before anything is fetched where possible.
    """
    deferred = {name: inputs[name] for name in file_inputs() if is_deferred(inputs.get(name))}
    if not deferred:
        yield dict(inputs)
        return
    validate_inputs(inputs)
    limits = read_settings(os.environ).limits
    check_files(deferred, limits)
    fetcher = make_fetcher_without_bucket(limits)
    with tempfile.TemporaryDirectory(prefix="inputs-", ignore_cleanup_errors=True) as folder:
        yield {**inputs, **run_cancellable(lambda: fetch_all(deferred, fetcher, Path(folder)))}


def own_inputs(inputs: Mapping[str, Any], folder: Path) -> frozenset[Path]:
    """The entries of `folder` that hold files of this request, which Cog deletes itself.

    Anything else there is of an earlier request: its video, or inputs of one that Cog could not fetch completely.
    """
    values = [item for name in file_inputs() for item in as_list(inputs.get(name))]
    paths = [Path(value) for value in values if isinstance(value, Path) and Path(value).is_relative_to(folder)]
    return frozenset(folder / path.relative_to(folder).parts[0] for path in paths)


def as_list(value: Any) -> list[Any]:
    """A list of one value, or the list that it is."""
    return value if isinstance(value, list) else [value]


def is_deferred(value: object) -> bool:
    """Whether a value, or one of a list, is to be fetched."""
    if isinstance(value, list):
        return any(is_deferred(item) for item in value)
    return isinstance(value, str) and value.startswith(FETCH_PREFIX)


def fetch_all(deferred: Mapping[str, Any], fetcher: InputFetcher, folder: Path) -> dict[str, Any]:
    """Every file, by input name."""
    paths: dict[str, Any] = {}
    for name, value in deferred.items():
        if isinstance(value, list):
            paths[name] = [fetch_one(item, fetcher, folder, f"{name}-{n}") for n, item in enumerate(value, 1)]
        else:
            paths[name] = fetch_one(value, fetcher, folder, name)
    return paths


def fetch_one(value: Any, fetcher: InputFetcher, folder: Path, name: str) -> Any:
    """The path of a fetched file; any other value unchanged."""
    if not is_deferred(value):
        return value
    return fetcher.fetch(value.removeprefix(FETCH_PREFIX), folder, name=name)
