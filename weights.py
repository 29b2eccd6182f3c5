"""The published weights: what they consist of, and how they come onto this machine.

`ensure(folder, names)` leaves each named bundle complete below `folder`, or says why it cannot.
`python weights.py FOLDER` does the same for all of them.
"""

import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BASE_URL = "https://weights.replicate.delivery/default/multitalk/weights"
BASE_URL_VARIABLE = "MULTITALK_WEIGHTS_URL"
MARKER = "download_complete.txt"
TIMEOUT_S = 3 * 3600.0
PGET_RELEASES = "https://github.com/replicate/pget/releases"
REPLICATE_PGET = re.compile(r"^pget version \S", re.IGNORECASE)

logger = logging.getLogger(__name__)


class WeightsError(RuntimeError):
    """A bundle is not there and could not be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A folder of weights: the files it must have (each with its alternatives) and its size in GB."""

    files: tuple[tuple[str, ...], ...]
    gigabytes: float


BUNDLES = {
    "Wan2.1-I2V-14B-480P": Bundle(
        files=(
            ("config.json",),
            *((f"diffusion_pytorch_model-{shard:05}-of-00007.safetensors",) for shard in range(1, 8)),
            ("models_t5_umt5-xxl-enc-bf16.pth",),
            ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
            ("Wan2.1_VAE.pth",),
            ("google/umt5-xxl",),
        ),
        gigabytes=82,
    ),
    "MeiGen-MultiTalk": Bundle(files=(("multitalk.safetensors",),), gigabytes=10),
    "chinese-wav2vec2-base": Bundle(
        files=(("config.json",), ("preprocessor_config.json",), ("model.safetensors", "pytorch_model.bin")),
        gigabytes=0.4,
    ),
}


def ensure(folder: Path, names: Iterable[str] = tuple(BUNDLES), *, timeout_s: float = TIMEOUT_S) -> None:
    """Leave every named bundle complete in `folder/NAME`; fetch what is not there.

    A folder with our marker, or filled by hand with all the needed files, is used as it stands.
    """
    unknown = set(names := tuple(names)) - BUNDLES.keys()
    if unknown:
        raise ValueError(f"no such weights: {sorted(unknown)}; there are {sorted(BUNDLES)}")
    if all(is_complete(folder, name) for name in names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        for name in names:
            if not is_complete(folder, name):
                fetch(folder, name, timeout_s)


def is_complete(folder: Path, name: str) -> bool:
    """Whether the bundle was fetched to its end, or has all its files anyway."""
    return (folder / name / MARKER).is_file() or not missing_files(folder / name, name)


def missing_files(place: Path, name: str) -> list[str]:
    """The needed files of bundle `name` that `place` does not have."""
    return [
        " or ".join(alternatives)
        for alternatives in BUNDLES[name].files
        if not any((place / file).exists() for file in alternatives)
    ]


def fetch(folder: Path, name: str, timeout_s: float) -> None:
    """Download and unpack one bundle under a temporary name, check it, and put it in place at once."""
    place = folder / name
    if place.is_dir() and any(place.iterdir()):
        raise WeightsError(
            f"{place} lacks {', '.join(missing_files(place, name))}: add the missing files, "
            "or remove the folder to have it downloaded"
        )
    url = f"{os.environ.get(BASE_URL_VARIABLE, BASE_URL).rstrip('/')}/{name}.tar"
    partial = folder / f".{name}.partial"
    if partial.exists():
        shutil.rmtree(partial)  # what a killed run left; pget cannot resume
    logger.info("downloading %s (%g GB) from %s", name, BUNDLES[name].gigabytes, url)
    try:
        run([find_pget(name), "-xf", url, str(partial)], timeout_s)
        unpacked = partial / name if (partial / name).is_dir() else partial
        if missing := missing_files(unpacked, name):
            raise WeightsError(f"{url} unpacked without {', '.join(missing)}")
        (unpacked / MARKER).write_text(f"{url}\n", encoding="utf-8")
        unpacked.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_pget(name: str) -> str:
    """The Replicate downloader on PATH; another program of that name is not taken for it."""
    program = shutil.which("pget")
    advice = f"install it from {PGET_RELEASES}, or put the files of {name} in place yourself"
    if program is None:
        raise WeightsError(f"{name} is not there and pget, which would download it, is not installed: {advice}")
    with suppress(subprocess.TimeoutExpired, OSError):
        answer = subprocess.run([program, "version"], capture_output=True, text=True, timeout=10, check=False)
        if REPLICATE_PGET.match(answer.stdout):
            return program
    raise WeightsError(f"{program} is another program than Replicate's pget: {advice}")


def run(command: list[str], timeout_s: float) -> None:
    """Run the downloader to its end; it never outlives us, nor the time it is given."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{' '.join(command)} did not end within {timeout_s:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status != 0:
        raise WeightsError(f"{' '.join(command)} ended with status {status}")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time download into `folder`, which several machines may share."""
    with (folder / ".download.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit("usage: python weights.py FOLDER")
    try:
        ensure(Path(sys.argv[1]))
    except WeightsError as problem:
        sys.exit(f"error: {problem}")
