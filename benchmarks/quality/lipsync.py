"""`python -m benchmarks.quality.lipsync`: whether lips follow the right voice, on held-out clips.

Mouths are read back from the pixels (`faces`) and compared with what the renderer would draw for the same voices; the
renderer's own frames are measured beside. The last line is the worst of the two-person rows. How figures are pooled
says `agreement`; drift, PSNR and stillness are of everything but mouths, and of mouths whose voice is silent.
"""

import argparse
import json
import logging
import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality import conditioning_ablation
from benchmarks.quality.clips import KINDS, ROWS, Row, draw_clip
from benchmarks.quality.metrics import Figures, measure
from benchmarks.report import cli_args
from benchmarks.report.environment import environment
from benchmarks.report.tables import markdown
from wan.sampling.options import SamplingOptions

logger = logging.getLogger(__name__)

OWN = 0.90
"""The goal of own, at least."""
LIMITS = {"other": 0.15, "shuffled": 0.10, "lag": 1, "still_mean": 0.05, "still_deviation": 0.05}
"""Goals of other figures: how far from 0 at most."""
COLUMNS = (
    "row",
    "own",
    "of clips",
    "lag",
    "other",
    "shuffled",
    "silent mouths",
    "drift",
    "PSNR dB",
    "chunks",
    "s/clip",
)
_INFLUENCED = 8
"""Clips at most for what is left out, and for prompts."""


def measure_row(
    puppet: Puppet, options: SamplingOptions, row: Row, clips: int, seed: int, vae: bool = False
) -> Figures:
    """The model's figures, the renderer's (`truth`), on demand the renderer's through the VAE; seconds a clip."""
    drawn = [draw_clip(row, seed, index) for index in range(clips)]
    truths = [clip.truth() for clip in drawn]
    takes = [puppet.take(clip, options) for clip in drawn]
    figures = {
        "clips": clips,
        "model": measure(drawn, [take.frames for take in takes]),
        "truth": measure(drawn, truths),
        "seconds_per_clip": mean(take.seconds for take in takes),
        "frames": row.frames,
    }
    if vae:
        figures["vae"] = measure(drawn, [puppet.round_trip(truth) for truth in truths])
    return figures


def line(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table; the renderer's figures in brackets."""
    model, truth = figures["model"], figures["truth"]

    def both(key: str, digits: int = 2) -> str:
        return f"{number(model[key], digits)} ({number(truth[key], digits)})"

    chunks = "own_first_chunk" in model
    return (
        name,
        both("own"),
        number(model["own_mean_of_clips"]),
        number(model["lag"], 0),
        both("other"),
        both("shuffled"),
        f"{number(model['still_mean'])} ± {number(model['still_deviation'])}",
        both("drift", 1),
        both("psnr", 1),
        f"{number(model['own_first_chunk'])} to {number(model['own_last_chunk'])}" if chunks else "",
        number(figures["seconds_per_clip"], 1),
    )


def number(value: float | None, digits: int = 2) -> str:
    """A figure for the table; nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def worst(rows: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Row]) -> tuple[float, float, int]:
    """Lowest own, farthest other and lag of the rows in which two persons are heard; nan where there is none."""
    found = [figures["model"] for name, figures in rows.items() if wanted[name].persons == 2]
    owns, others, lags = ([m[key] for m in found if m[key] is not None] for key in ("own", "other", "lag"))
    nan = float("nan")
    return min(owns, default=nan), max(others, key=abs, default=nan), int(max(lags, key=abs, default=0))


def misses(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The goals that a row does not meet, one line each."""
    found = []
    for name, figures in rows.items():
        model = figures["model"]
        if model["own"] is not None and model["own"] < OWN:
            found.append(f"{name}: own is {model['own']:.2f}, the goal {OWN:.2f}")
        found += [
            f"{name}: {key} is {model[key]:.2f}, the goal at most {limit:.2f}"
            for key, limit in LIMITS.items()
            if model[key] is not None and abs(model[key]) > limit
        ]
    return found


def measured(wanted: Mapping[str, Row], given: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Every row in its order, several at a time."""
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {name: pool.submit(_measure, row, given) for name, row in wanted.items()}
        for name, future in futures.items():
            yield name, future.result()


def _measure(row: Row, given: argparse.Namespace) -> Figures:
    puppet = cli_args.load(given)
    clips = given.clips if row.chunks == 1 or given.long_clips is None else given.long_clips
    return measure_row(puppet, cli_args.options(puppet, given), row, clips, given.seed, given.vae)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.lipsync", description=__doc__)
    parser.add_argument("--clips", type=int, default=40, help="a row")
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    parser.add_argument("--long-clips", type=int, help="in rows of five chunks (default: as many)")
    parser.add_argument("--jobs", type=int, default=1, help="rows measured at a time")
    parser.add_argument("--vae", action="store_true", help="measure the renderer's frames through the VAE as well")
    parser.add_argument("--no-influences", action="store_true", help="leave out what is left out, and prompts")
    parser.add_argument("--output", type=Path, help="a JSON file (default: none; `make bench-lips` writes results/)")
    cli_args.add_arguments(parser)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    puppet = cli_args.load(given)
    options = cli_args.options(puppet, given)
    wanted = {row.name: row for row in ROWS if row.name in given.rows}
    document: dict[str, Any] = {
        **environment("benchmarks.quality.lipsync"),
        "voices": KINDS,
        "options": asdict(options),
    }
    document["rows"] = {}
    logger.info("%s", markdown(COLUMNS, []))
    for name, figures in measured(wanted, given):
        document["rows"][name] = figures
        logger.info("%s", markdown(line(name, figures), []).splitlines()[0])
    if not given.no_influences:
        count = min(given.clips, _INFLUENCED)
        document["left_out"] = conditioning_ablation.ablate(puppet, options, count, given.seed)
        document["prompts"] = conditioning_ablation.prompts(puppet, options, count, given.seed)
        logger.info("%s", json.dumps({key: document[key] for key in ("left_out", "prompts")}, indent=2))
    document["misses"] = misses(document["rows"])
    for miss in document["misses"]:
        logger.info("missed: %s", miss)
    own, other, lag = worst(document["rows"], wanted)
    document["worst"] = {"own": own, "other": other, "lag": lag}
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("own=%.3f other=%.3f lag=%d", own, other, lag)


if __name__ == "__main__":
    main()
