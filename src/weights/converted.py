"""Folders written by `weights.py convert`: check one, or fetch its tar from the operator's own URL."""

import json
import logging
import secrets
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from src.weights import lock
from src.weights.disk import remove, require_space
from src.weights.ensure import list_paths, translate_disk_errors
from src.weights.errors import CorruptDownloadError, WeightsError
from src.weights.fetch import pget
from src.weights.install import install
from src.weights.manifest import CONVERTED, File
from src.weights.progress import LoggedProgress, ProgressCallback, partial_dirs, report_progress
from src.weights.retry import RetryPolicy
from src.weights.sources import BASE_URL_VARIABLE, TAR_SOURCE, Sources
from src.weights.verify import FileStatus, inspect_converted

TAR_INDEX = "tars.json"
"""File that `pack` writes beside tars of converted folders: the model, dtype and size of each, by file name."""
DEFAULT_DTYPE = "bf16"
_PARTIAL = "converted"
_NOT_FOUND = (403, 404, 410)
"""What servers answer for an absent file; object stores that do not allow listing answer 403."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedTar:
    """The tar of a converted folder on a server."""

    url: str
    bytes: int


def ensure_converted(
    folder: Path,
    *,
    model: str,
    dtype: str | None,
    sources: Sources,
    policy: RetryPolicy | None = None,
    progress: ProgressCallback | None = None,
) -> bool:
    """Make `folder` a complete converted folder of `model` if it is one already, or if the operator's URL has its tar.

    Returns False if it is neither. `dtype`: of the wanted folder, None for any. Raises WeightsError for a folder that
    is incomplete and cannot be fetched, and for a tar that is corrupt or of another model.
    """
    policy = policy or RetryPolicy()
    if incomplete := incomplete_files(folder):
        logger.warning("%s: missing or broken: %s", folder, list_paths(incomplete))
    elif (folder / CONVERTED).is_file():
        return True
    tar = find_tar(sources, folder.name, model, dtype, policy)
    if tar is None:
        if incomplete:
            raise WeightsError(
                f"{folder} is a converted folder with missing or broken files ({list_paths(incomplete)}): copy or "
                f"convert it again, or set {BASE_URL_VARIABLE} to the URL of its tar"
            )
        return False
    with translate_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock.exclusive(folder):
            if not (folder / CONVERTED).is_file() or incomplete_files(folder):
                with report_progress(folder, {_PARTIAL: tar.bytes}, progress or LoggedProgress()):
                    fetch_tar(folder, tar, model, policy)
    return True


def incomplete_files(folder: Path) -> list[FileStatus]:
    """The missing and broken files of a converted folder; none for another folder."""
    if not (folder / CONVERTED).is_file():
        return []
    return [status for status in inspect_converted(folder) if status.is_incomplete]


def find_tar(
    sources: Sources, folder_name: str, model: str, dtype: str | None, policy: RetryPolicy
) -> ConvertedTar | None:
    """The tar that the operator's URL names, the one that its index lists for the model, or the one of the folder's
    name; None if there is none. Raises WeightsError if the URL itself names a tar that cannot be read."""
    if sources.is_published_site or TAR_SOURCE not in sources.names:
        return None
    base = sources.base_url.rstrip("/")
    if urlsplit(base).path.endswith(".tar"):
        size = content_length(base, policy)
        if size is None:
            raise WeightsError(f"there is no {base} ({BASE_URL_VARIABLE})")
        return ConvertedTar(url=base, bytes=size)
    try:
        name = choose_tar(read_index(f"{base}/{TAR_INDEX}", policy), model, dtype) or f"{folder_name}.tar"
        size = content_length(f"{base}/{name}", policy)
    except WeightsError as error:  # the bundles may come from another source
        logger.warning("%s", error)
        return None
    return None if size is None else ConvertedTar(url=f"{base}/{name}", bytes=size)


def choose_tar(index: Mapping[str, Mapping[str, Any]], model: str, dtype: str | None) -> str | None:
    """The file name of the model's tar: of the wanted dtype, else bf16, which can be quantized on loading; without a
    wanted dtype bf16, else any."""
    dtypes = {str(entry["dtype"]): name for name, entry in sorted(index.items()) if entry["model"] == model}
    for choice in (dtype or DEFAULT_DTYPE, DEFAULT_DTYPE, *(() if dtype else sorted(dtypes))):
        if choice in dtypes:
            return dtypes[choice]
    if index:
        found = ", ".join(f"{name} ({entry['model']}, {entry['dtype']})" for name, entry in sorted(index.items()))
        logger.warning("no tar of %s in %s; there are %s", model, dtype or "any dtype", found)
    return None


def fetch_tar(folder: Path, tar: ConvertedTar, model: str, policy: RetryPolicy) -> None:
    """Download, unpack, verify by the hashes in converted.json, and move into `folder`, converted.json last."""
    program = pget.find_pget()
    if program is None:
        raise WeightsError(f"{tar.url} needs pget, which is not on PATH (install it from {pget.RELEASES_URL})")
    for path in partial_dirs(folder, _PARTIAL):
        remove(path)
    require_space(folder, 2 * tar.bytes, tar.url)  # the tar and its files
    logger.info("downloading %.1f GB from %s", tar.bytes / 1e9, tar.url)
    partial = folder / f".{_PARTIAL}.pget.{secrets.token_hex(4)}.partial"
    try:
        tree = converted_dir(pget.download(program, tar.url, partial, policy, trusted=False))
        statuses = verify_tree(tree, model)
        (folder / CONVERTED).unlink(missing_ok=True)  # until all files are new
        install(tree, folder, statuses)
    except CorruptDownloadError as error:
        raise CorruptDownloadError(f"{tar.url} {error}") from error
    finally:
        remove(partial)
    logger.info("%s is complete", folder)


def converted_dir(tree: Path) -> Path:
    """The unpacked folder with converted.json: `tree` or a folder in it."""
    for folder in (tree, *sorted(path for path in tree.iterdir() if path.is_dir())):
        if (folder / CONVERTED).is_file():
            return folder
    raise CorruptDownloadError(f"contains no {CONVERTED}: it is not the tar of a converted folder")


def verify_tree(tree: Path, model: str) -> list[FileStatus]:
    """Every file of an unpacked folder, converted.json last. Raises CorruptDownloadError unless all hashes match."""
    statuses = inspect_converted(tree, "hash")
    if incomplete := [status for status in statuses if status.is_incomplete]:
        raise CorruptDownloadError(f"has missing or broken files: {'; '.join(map(str, incomplete))}")
    found = json.loads((tree / CONVERTED).read_text(encoding="utf-8")).get("model")
    if found != model:
        raise CorruptDownloadError(f"holds the weights of {found}, not of {model}")
    return [*statuses, FileStatus(file=File(path=CONVERTED), path=tree / CONVERTED, state="ok")]


def read_index(url: str, policy: RetryPolicy) -> dict[str, dict[str, Any]]:
    """The index of a folder of tars; empty if the server has none. Raises WeightsError for an invalid one."""
    try:
        with urllib.request.urlopen(url, timeout=policy.read_s) as response:
            index = json.loads(response.read(1 << 20))
        return {str(name): {"model": entry["model"], "dtype": entry["dtype"]} for name, entry in index.items()}
    except HTTPError as error:
        if error.code in _NOT_FOUND:
            return {}
        raise WeightsError(f"{url} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{url} is not an index of tars: {error!r}") from error
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{url} cannot be read: {error}") from error


def content_length(url: str, policy: RetryPolicy) -> int | None:
    """The size of a file on a server, None if there is none. A range request: signed URLs do not allow HEAD."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
    try:
        with urllib.request.urlopen(request, timeout=policy.read_s) as response:
            return int(response.headers["Content-Length"])
    except HTTPError as error:
        if error.code in _NOT_FOUND:
            return None
        raise WeightsError(f"{url} cannot be read: {error}") from error
    except (OSError, HTTPException, TypeError, ValueError) as error:
        raise WeightsError(f"{url} cannot be read: {error}") from error
