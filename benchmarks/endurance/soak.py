"""`python -m benchmarks.endurance.soak`: hundreds of good, bad and cancelled requests to one server.

It ends with status 1 when a request ends otherwise than it was meant to, when memory grows by more than LIMIT_MB for
each hundred requests, or when a file is left behind. What a request is, its number decides, so every run is the same.
"""

import argparse
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.environment import RESULTS, environment
from src.serving.cog.cli_inputs import data_uri
from src.serving.cog.server import InputRefusedError, Server

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
MODEL = "multitalk-puppet"
LIMIT_MB = 1.0
JUMP_MB = 1.0
"""Growth during a single request that is worth a line."""
WARM = 0.2
"""The share of the requests in which memory may still settle."""
FRAMES = {1: 40, 2: 20, 5: 20, 9: 15, 34: 5}
"""Lengths of good requests, and how common each is."""
KINDS = {"good": 0.7, "refused": 0.1, "failed": 0.1, "canceled": 0.1}
LONG = {"num_frames": 33, "sampling_steps": 100}
REFUSED: tuple[dict[str, Any], ...] = ({"sampling_steps": 1}, {"audio_mode": "loud"}, {"seed": -1}, {"image": 5})
FAILED: tuple[dict[str, Any], ...] = (
    {"prompt": " "},
    {"audio_start": 1000},
    {"image": "/etc/passwd"},
    {"first_audio": "data:;base64,AAAA"},
    {"person_boxes": "1,2,3"},
    {"image": "data:image/png;base64,iVBORw0KGgo="},
)


@dataclass(slots=True, kw_only=True)
class Account:
    """What happened: endings by kind, seconds of good requests, megabytes after each request."""

    endings: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def inputs_of(dice: random.Random) -> dict[str, Any]:
    """A good request: one person or two, a few frames."""
    (frames,) = dice.choices(list(FRAMES), list(FRAMES.values()))
    return good(frames, dice.randrange(1000), turbo=dice.random() < 0.9, two=dice.random() < 0.5)


def good(frames: int, seed: int, *, turbo: bool, two: bool) -> dict[str, Any]:
    """One of the good requests."""
    request = {
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
        voice = data_uri(EXAMPLES / "voice_ben.flac")
        request |= {"image": data_uri(EXAMPLES / "two_people.png"), "second_audio": voice}
    return request


def ask(server: Server, kind: str, dice: random.Random, name: str) -> str:
    """Send a request of a kind; how it ended."""
    request = inputs_of(dice)
    if kind == "canceled":
        return cancel(server, request | LONG, name)
    if kind != "good":
        request |= dice.choice(REFUSED if kind == "refused" else FAILED)
    try:
        answer = server.predict(request, prediction_id=name)
    except InputRefusedError:
        return "refused"
    return "good" if answer["status"] == "succeeded" and answer["output"] else str(answer["status"])


def cancel(server: Server, request: dict[str, Any], name: str) -> str:
    """Begin a long request and cancel it while it works."""
    answers: list[dict[str, Any]] = []
    written = len(server.logs)
    asking = threading.Thread(target=lambda: answers.append(server.predict(request, prediction_id=name)))
    asking.start()
    while asking.is_alive() and not any("denoise" in line for line in server.logs[written:]):
        time.sleep(0.01)
    server.cancel(name)
    asking.join()
    return str(answers[0]["status"])


def measure(requests: int, scratch: Path) -> tuple[Account, list[str]]:
    """One server through all requests, and what is left of them beside the last video in its folder."""
    account = Account()
    env = {"OMP_NUM_THREADS": "1", "MULTITALK_MODEL": MODEL, "MAX_SECONDS": "60", "TMPDIR": str(scratch)}
    with Server(REPOSITORY, env=env) as server:
        before = set(scratch.rglob("*"))
        settle(server)
        for number in range(requests):
            dice = random.Random(number)
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            start = time.perf_counter()
            ending = ask(server, kind, dice, f"soak-{number}")
            if kind == "good":
                account.seconds.append(time.perf_counter() - start)
            account.endings[kind] += 1
            if ending != kind:
                account.wrong.append(f"request {number} was to be {kind} and was {ending}")
            account.megabytes.append(resident(server.process.pid))
            if number and account.megabytes[-1] - account.megabytes[-2] > JUMP_MB:
                logger.info("request %d (%s) took memory from %.1f to %.1f MB", number, kind, *account.megabytes[-2:])
            if number % 50 == 49:
                logger.info("%d requests, %.1f MB", number + 1, account.megabytes[-1])
        return account, left_behind(set(scratch.rglob("*")) - before)


def settle(server: Server) -> None:
    """Every kind of good request once, the longest first: memory has then been as high as it has to be."""
    for frames in sorted(FRAMES, reverse=True):
        for turbo, two in ((False, True), (False, False), (True, True), (True, False)):
            server.predict(good(frames, 0, turbo=turbo, two=two))


def left_behind(found: set[Path]) -> list[str]:
    """Names of new files that are not the last video, which stays until the next request begins."""
    videos = sorted(path for path in found if path.match("multitalk-*/output.mp4"))
    last = {path for video in videos[:1] for path in (video, video.parent)}
    return sorted(path.name for path in found - last)


def resident(server: int) -> float:
    """Megabytes of the server and of its worker."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if server in {int(folder.name), int(stat[1])}:
                total += int((folder / "statm").read_text().split()[1])
        except OSError:  # it has ended meanwhile
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(megabytes: Sequence[float]) -> float:
    """Megabytes for each hundred requests, by a straight line through all but the first ones."""
    settled = megabytes[round(WARM * len(megabytes)) :]
    return float(np.polyfit(np.arange(len(settled)), settled, 1)[0] * 100)


def judge(account: Account, left: list[str]) -> list[str]:
    """What is wrong, one sentence each."""
    grown = growth(account.megabytes)
    problems = [*account.wrong, *(f"{name} was left behind" for name in left)]
    if grown > LIMIT_MB:
        problems.append(f"memory grew by {grown:.2f} MB for each 100 requests; {LIMIT_MB:g} are allowed")
    return problems


def report(account: Account, requests: int, minutes: float) -> dict[str, Any]:
    """The figures."""
    hundredths = statistics.quantiles(account.seconds, n=100)
    return {
        **environment("benchmarks.endurance.soak"),
        "requests": requests,
        "minutes": round(minutes, 1),
        "kinds": dict(account.endings),
        "seconds_p50": round(hundredths[49], 3),
        "seconds_p99": round(hundredths[98], 3),
        "megabytes_first": round(account.megabytes[0], 1),
        "megabytes_last": round(account.megabytes[-1], 1),
        "megabytes_for_100_requests": round(growth(account.megabytes), 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        account, left = measure(options.requests, Path(scratch))
    problems = judge(account, left)
    figures = report(account, options.requests, (time.monotonic() - start) / 60) | {"problems": problems}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s", json.dumps(figures, indent=2))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
