"""`python -m benchmarks.endurance.soak`: hundreds of valid, invalid and canceled requests to one server.

The server runs the built-in model; the index of a request seeds its content, so every run is the same. Written to
benchmarks/results/soak.json. The exit status is 1 if a request has an unexpected outcome, if resident memory (in 10^6
bytes) grows by more than MAX_GROWTH_MB per 100 requests, or if files or folders remain. The server starts with what a
killed one left in TMPDIR and in Cog's folder.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import MODEL, RESULTS
from src.command_line import Parser, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.endurance.soak", __doc__)
    parser.add_argument("--requests", type=whole_number(), default=500, help="number of requests")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "soak.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.endurance.soak", make_parser)

import contextlib
import json
import logging
import os
import random
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.environment import environment, write_result
from src.serving.cog.cli_inputs import data_uri
from src.serving.cog.prediction_folders import FOLDER, other_server_runs
from src.serving.cog.server import InputRefusedError, Server

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
COMPILER_CACHE = "torchinductor_*"
ORPHAN = "orphan-of-the-soak"
MAX_GROWTH_MB = 1.0
"""Per 100 requests."""
LOGGED_GROWTH_MB = 1.0
"""Growth during a single request that is logged."""
WARM_UP_FRACTION = 0.2
"""Fraction of the requests that is excluded from the growth."""
FRAMES = {1: 40, 2: 20, 5: 20, 9: 15, 34: 5}
"""Number of frames of valid requests: relative frequency."""
OUTCOMES = {"good": 0.7, "refused": 0.1, "failed": 0.1, "canceled": 0.1}
LONG_INPUTS = {"num_frames": 33, "sampling_steps": 100}
REFUSED_INPUTS: tuple[dict[str, Any], ...] = ({"sampling_steps": 1}, {"audio_mode": "loud"}, {"seed": -1}, {"image": 5})
FAILING_INPUTS: tuple[dict[str, Any], ...] = (
    {"prompt": " "},
    {"audio_start": 1000},
    {"image": "/etc/passwd"},
    {"first_audio": "data:;base64,AAAA"},
    {"person_boxes": "1,2,3"},
    {"image": "data:image/png;base64,iVBORw0KGgo="},
)


@dataclass(slots=True, kw_only=True)
class Record:
    """Outcome counts, seconds of good requests, megabytes after each request, and unexpected outcomes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def draw_inputs(rng: random.Random) -> dict[str, Any]:
    """Valid inputs for one or two persons and a few frames."""
    (frames,) = rng.choices(list(FRAMES), list(FRAMES.values()))
    return valid_inputs(frames, rng.randrange(1000), turbo=rng.random() < 0.9, two=rng.random() < 0.5)


def valid_inputs(frames: int, seed: int, *, turbo: bool, two: bool) -> dict[str, Any]:
    """Inputs of a request that succeeds; `two` is for two persons."""
    inputs = {
        "image": data_uri(EXAMPLES / "portrait.png"),
        "first_audio": data_uri(EXAMPLES / "voice_anna.flac"),
        "audio_duration": 0.5,
        "num_frames": frames,
        "sampling_steps": 2,
        "seed": seed,
        "turbo": turbo,
        "audio_mode": "para",
    }
    if two:
        audio = data_uri(EXAMPLES / "voice_ben.flac")
        inputs |= {"image": data_uri(EXAMPLES / "two_people.png"), "second_audio": audio}
    return inputs


def send_request(server: Server, outcome: str, rng: random.Random, prediction_id: str) -> str:
    """Send a request that should have an outcome; returns the actual outcome."""
    inputs = draw_inputs(rng)
    if outcome == "canceled":
        return cancel_request(server, inputs | LONG_INPUTS, prediction_id)
    if outcome != "good":
        inputs |= rng.choice(REFUSED_INPUTS if outcome == "refused" else FAILING_INPUTS)
    try:
        response = server.predict(inputs, prediction_id=prediction_id)
    except InputRefusedError:
        return "refused"
    return "good" if response["status"] == "succeeded" and response["output"] else str(response["status"])


def cancel_request(server: Server, inputs: dict[str, Any], prediction_id: str) -> str:
    """Start a long request and cancel it during denoising."""
    responses: list[dict[str, Any]] = []
    logged = len(server.logs)
    client = threading.Thread(target=lambda: responses.append(server.predict(inputs, prediction_id=prediction_id)))
    client.start()
    while client.is_alive() and not any("denoise" in line for line in server.logs[logged:]):
        time.sleep(0.01)
    server.cancel(prediction_id)
    client.join()
    return str(responses[0]["status"])


def measure(num_requests: int, scratch: Path) -> tuple[Record, list[str]]:
    """Send all requests to one server; returns the record and the names of leftover files."""
    record = Record()
    env = {"OMP_NUM_THREADS": "1", "MULTITALK_MODEL": MODEL, "MAX_SECONDS": "60", "TMPDIR": str(scratch)}
    leave_orphans(scratch)
    with Server(REPOSITORY, env=env) as server:
        warm_up(server)
        for index in range(num_requests):
            rng = random.Random(index)
            (expected,) = rng.choices(list(OUTCOMES), list(OUTCOMES.values()))
            start = time.perf_counter()
            outcome = send_request(server, expected, rng, f"soak-{index}")
            if expected == "good":
                record.seconds.append(time.perf_counter() - start)
            record.outcomes[expected] += 1
            if outcome != expected:
                record.unexpected.append(f"request {index}: expected {expected}, got {outcome}")
            record.megabytes.append(resident_mb(server.process.pid))
            if index and record.megabytes[-1] - record.megabytes[-2] > LOGGED_GROWTH_MB:
                logger.info("request %d (%s): memory from %.1f to %.1f MB", index, expected, *record.megabytes[-2:])
            if index % 50 == 49:
                logger.info("%d requests, %.1f MB", index + 1, record.megabytes[-1])
        leftover = leftover_files(written_files(server, scratch))
    return record, leftover + [path.name for path in scratch.iterdir() if not path.match(COMPILER_CACHE)]


def warm_up(server: Server) -> None:
    """Send every kind of valid request once, longest first, so that memory reaches its steady peak."""
    for frames in sorted(FRAMES, reverse=True):
        for turbo, two in ((False, True), (False, False), (True, True), (True, False)):
            server.predict(valid_inputs(frames, 0, turbo=turbo, two=two))


def leave_orphans(scratch: Path) -> None:
    """What a SIGKILL of an earlier server leaves: folders of ours and of Cog that nobody has locked."""
    for folder in (scratch / "multitalk-server-soak", scratch / "multitalk-job-soak", FOLDER / ORPHAN):
        folder.mkdir(parents=True)
        (folder / "file").write_text("left")


def written_files(server: Server, scratch: Path) -> set[Path]:
    """Files and folders in every folder that the server can write to, but its own folders and the compiler's cache."""
    wanted = (COMPILER_CACHE, f"{COMPILER_CACHE}/**/*", "multitalk-server-*", "multitalk-server-*/multitalk-worker-*")
    found = {path for path in scratch.rglob("*") if not any(path in scratch.glob(pattern) for pattern in wanted)}
    ended = () if other_server_runs() else FOLDER.glob(ORPHAN)
    return found | {*FOLDER.glob("soak-*"), *ended} | open_files(server.process.pid)


def leftover_files(found: set[Path]) -> list[str]:
    """Names of files, except one video, which is kept until the next request starts."""
    videos = sorted(path for path in found if path.match("output-*/output.mp4"))
    kept = {path for video in videos[:1] for path in (video, video.parent)}
    return sorted(path.name for path in found - kept)


def open_files(session: int) -> set[Path]:
    """Regular files outside of the repository that a process of the server has open for writing, other than its log."""
    opened = set()
    for folder in session_folders(session):
        for info in folder.glob("fdinfo/*"):
            with contextlib.suppress(OSError):
                flags = int(re.search(r"flags:\s*(\d+)", info.read_text())[1], 8)  # type: ignore[index]
                path = Path(os.readlink(folder / "fd" / info.name))
                if flags & os.O_ACCMODE and path.is_file() and not path.is_relative_to(REPOSITORY):
                    opened.add(path)
    return opened


def session_folders(session: int) -> list[Path]:
    """The /proc folders of the server's processes (Linux): the gateway, Cog's server and its worker."""
    folders = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                folders.append(folder)
    return folders


def resident_mb(server_pid: int) -> float:
    """Resident megabytes of the server's processes (Linux)."""
    pages = 0
    for folder in session_folders(server_pid):
        with contextlib.suppress(OSError):
            pages += int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth_per_100(megabytes: Sequence[float]) -> float:
    """Megabytes per 100 requests: slope of a linear fit after the warm-up fraction."""
    steady = megabytes[round(WARM_UP_FRACTION * len(megabytes)) :]
    return float(np.polyfit(np.arange(len(steady)), steady, 1)[0] * 100)


def find_problems(record: Record, leftover: list[str]) -> list[str]:
    """Failed conditions, one sentence each."""
    growth = growth_per_100(record.megabytes)
    problems = [*record.unexpected, *(f"{name} was not deleted" for name in leftover)]
    if growth > MAX_GROWTH_MB:
        problems.append(f"memory grew by {growth:.2f} MB per 100 requests; the limit is {MAX_GROWTH_MB:g}")
    return problems


def summarize(record: Record, num_requests: int, minutes: float) -> dict[str, Any]:
    """The JSON document without the problems."""
    percentiles = statistics.quantiles(record.seconds, n=100)
    return {
        **environment("benchmarks.endurance.soak"),
        "requests": num_requests,
        "minutes": round(minutes, 1),
        "outcomes": dict(record.outcomes),
        "seconds_p50": round(percentiles[49], 3),
        "seconds_p99": round(percentiles[98], 3),
        "megabytes_first": round(record.megabytes[0], 1),
        "megabytes_last": round(record.megabytes[-1], 1),
        "megabytes_for_100_requests": round(growth_per_100(record.megabytes), 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        record, leftover = measure(args.requests, Path(scratch))
    problems = find_problems(record, leftover)
    document = summarize(record, args.requests, (time.monotonic() - start) / 60) | {"problems": problems}
    write_result(args.output, document)
    logger.info("%s", json.dumps(document, indent=2))
    return 1 if problems else 0
